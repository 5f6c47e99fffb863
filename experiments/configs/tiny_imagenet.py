"""TinyImageNet with ResNet-20 on 48×48 crops, as in the paper's Table 1.

    python -m experiments.prepare --dataset=tiny_imagenet --data_dir=DIR \\
        --source=tiny-imagenet-200.zip
    python -m experiments.train --config=experiments/configs/tiny_imagenet.py:lc_hebbian \\
        --config.data_dir=DIR --workdir=runs/tiny_imagenet

Training images are crops no further than 4 pixels (`translations.padding`) from the centre of the
64×64 image; 0 and 8 are the paper's other columns. Tests are on the centre crop of the official
validation images. To choose a learning rate as the paper did, hold out a tenth of the training
images with `--config.validation=10000`. A zip with fewer classes works: the network has 200 outputs
all the same.
"""

from lcn_jax.training import config as configs


def get_config(kind: str = 'lc_hebbian'):
    config = configs.default()
    config.dataset = 'tiny_imagenet'
    config.image_size = 48
    config.translations.padding = 4
    config.model.stage_sizes = (3, 3, 3)
    config.model.width = 16
    config.batch_size = 512
    config.epochs = 200
    config.learning_rate = 5e-3 if kind == 'conv' else 5e-4
    config.weight_decay = 1e-2
    return configs.apply_kind(config, kind)
