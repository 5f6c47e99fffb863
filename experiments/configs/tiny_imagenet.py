"""TinyImageNet with ResNet-20 on 48×48 crops, as in the paper's Table 1.

    python -m experiments.prepare --dataset=tiny_imagenet --data_dir=DIR \\
        --source=tiny-imagenet-200.zip
    python -m experiments.train --config=experiments/configs/tiny_imagenet.py:lc_hebbian \\
        --config.data_dir=DIR --workdir=runs/tiny_imagenet

Training images are crops no further than `translations.padding` from the centre of the 64×64 image.
Tests are on the centre crop of the official validation images. A zip with fewer classes works: the
network has 200 outputs all the same.
"""

from experiments.configs import common


def get_config(kind: str = 'lc_hebbian'):
    return common.table1('tiny_imagenet', 48, kind)
