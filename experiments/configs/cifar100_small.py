"""CIFAR-100 on the small budget of `cifar10_small`.

    python -m experiments.table --config=experiments/configs/cifar100_small.py \\
        --config.data_dir=DIR --rows=conv,lc,lc_mean10,lc_mean10_joined --seeds=3 \\
        --out=runs/table

Rates were chosen on 200 images of each class, of which some were held out
(`experiments/results/three_datasets/README.md`).
"""

from experiments.configs import common

RATES = {'conv': 1e-2, 'lc': 1e-3, 'lc_translations': 1e-3, 'tiled': 3e-3, 'joined': 1e-2}
ROWS = common.every_step(tiled=3e-3, joined=1e-2)


def get_config(kind: str = 'lc_hebbian'):
    return common.small('cifar100', 32, kind, RATES)
