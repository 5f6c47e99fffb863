"""CIFAR-100 with ResNet-20, as in the paper's Table 1.

    python -m experiments.prepare --dataset=cifar100 --data_dir=DIR --source=cifar-100-binary.tar.gz
    python -m experiments.train --config=experiments/configs/cifar100.py:lc_hebbian \\
        --config.data_dir=DIR --workdir=runs/cifar100
"""

from experiments.configs import common


def get_config(kind: str = 'lc_hebbian'):
    return common.table1('cifar100', 32, kind)
