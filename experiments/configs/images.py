"""Your own images, with values to begin with; docs/data.md says how to change them.

    python -m experiments.prepare --dataset=birds --data_dir=DIR --source=birds
    python -m experiments.train --config=images:lc_mean_joined --config.dataset=birds \\
        --config.data_dir=DIR --config.image_size=64 --workdir=runs/birds

A ResNet-8 whose first convolution has stride 2, 30 epochs in batches of 48. The learning rates are
those of `cifar10_small`, which were chosen on CIFAR-10 in batches of 100.
"""

from experiments.configs import cifar10_small

ROWS = cifar10_small.ROWS


def get_config(kind: str = 'lc_mean_joined'):
    config = cifar10_small.get_config(kind)
    config.dataset, config.image_size = 'images', 64
    config.batch_size = 48  # 1, 2, 3, 4, 6, 8, 12 or 16 devices divide it, and so do 4 repetitions
    config.evaluate_every = 1
    return config
