"""TinyImageNet on the small budget of `cifar10_small`.

    python -m experiments.table --config=experiments/configs/tiny_imagenet_small.py \\
        --config.data_dir=DIR --rows=conv,lc,lc_mean10,lc_mean10_joined --seeds=3 \\
        --out=runs/table

Rates were chosen on images of TinyImageNet that were held out. They are those of `cifar10_small`,
except that of the convolution (`experiments/results/three_datasets/README.md`).
"""

from experiments.configs import cifar10_small, common

RATES = cifar10_small.RATES | {'conv': 5e-3}
ROWS = cifar10_small.ROWS


def get_config(kind: str = 'lc_hebbian'):
    return common.small('tiny_imagenet', 48, kind, RATES)
