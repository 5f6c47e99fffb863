"""CIFAR-100 on the small budget of `cifar10_small`.

    python -m experiments.table --config=experiments/configs/cifar100_small.py \\
        --config.data_dir=DIR --rows=conv,lc,lc_mean10,lc_mean10_joined --seeds=3 \\
        --out=runs/table

The rates of `cifar10_small` are also the best of those tried on images of CIFAR-100 that were held
out (`experiments/results/three_datasets/README.md`).
"""

from experiments.configs import cifar10_small, common

ROWS = cifar10_small.ROWS


def get_config(kind: str = 'lc_hebbian'):
    return common.small('cifar100', 32, kind, cifar10_small.RATES)
