"""CIFAR-10 on a small budget: ResNet-20 on 2,500 images, in two minutes on two CPU cores.

    python -m experiments.train --config=experiments/configs/cifar10_small.py:lc_mean \\
        --config.data_dir=DIR --workdir=runs/cifar10_small

What the paper shows with all images and 200 epochs, shown with a twentieth of both.
"""

from experiments.configs import cifar10


def get_config(kind: str = 'lc_hebbian'):
    config = cifar10.get_config(kind)
    config.train_images = 2500
    config.batch_size = 50
    config.epochs = 10
    config.evaluate_every = 5
    config.learning_rate = 5e-3 if kind == 'conv' else 1e-3
    return config
