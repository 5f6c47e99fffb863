"""CIFAR-10 on a small budget: ResNet-20 on 2,000 of its images, in minutes on a CPU core.

    python -m experiments.table --config=experiments/configs/cifar10_small.py \\
        --config.data_dir=DIR --rows=conv,lc,lc_reps4,lc_mean1,lc_mean10,lc_mean100 --seeds=3 \\
        --out=runs/table

What the paper shows with all images and 200 epochs, with a twenty-fifth of both. The learning rates
are from its grid.
"""

from experiments.configs import cifar10


def get_config(kind: str = 'lc_hebbian'):
    config = cifar10.get_config(kind)
    config.train_images = 2000
    config.batch_size = 50
    config.epochs = 10
    config.evaluate_every = 5
    config.learning_rate = 5e-3 if kind == 'conv' else 1e-3
    return config
