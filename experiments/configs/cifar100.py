"""CIFAR-100 with ResNet-20, as in the paper's Table 1.

    python -m experiments.prepare --dataset=cifar100 --data_dir=DIR --source=cifar-100-binary.tar.gz
    python -m experiments.train --config=experiments/configs/cifar100.py:lc_hebbian \\
        --config.data_dir=DIR --workdir=runs/cifar100

Padding is 4 here; 0 and 8 are the paper's other columns. To choose a learning rate as the paper
did, hold out a tenth of the training images with `--config.validation=5000`.
"""

from lcn_jax.training import config as configs


def get_config(kind: str = 'lc_hebbian'):
    config = configs.default()
    config.dataset = 'cifar100'
    config.image_size = 32
    config.translations.padding = 4
    config.model.stage_sizes = (3, 3, 3)
    config.model.width = 16
    config.batch_size = 512
    config.epochs = 200
    config.learning_rate = 5e-3 if kind == 'conv' else 5e-4
    config.weight_decay = 1e-2
    return configs.apply_kind(config, kind)
