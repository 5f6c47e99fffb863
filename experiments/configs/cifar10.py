"""CIFAR-10 with ResNet-20, as in the paper's Table 1.

    python -m experiments.train --config=experiments/configs/cifar10.py:lc_hebbian \\
        --config.data_dir=DIR --workdir=runs/cifar10
"""

from experiments.configs import common


def get_config(kind: str = 'lc_hebbian'):
    return common.table1('cifar10', 32, kind)
