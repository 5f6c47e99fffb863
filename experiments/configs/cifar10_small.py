"""CIFAR-10 on a small budget: ResNet-20 on 5,000 of its images, in minutes on a CPU core.

    python -m experiments.table --config=experiments/configs/cifar10_small.py \\
        --config.data_dir=DIR --rows=conv,lc,lc_mean1,lc_mean10 --seeds=3 --out=runs/table

What the paper shows with all images and 200 epochs, with a tenth of the images and 8 epochs. The
learning rates are from its grid. `experiments/results/cifar10_small` has what came of it.
"""

from experiments.configs import cifar10


def get_config(kind: str = 'lc_hebbian'):
    config = cifar10.get_config(kind)
    config.train_images = 5000
    config.batch_size = 100
    config.epochs = 8
    config.evaluate_every = 8
    config.learning_rate = 5e-3 if kind == 'conv' else 1e-3
    return config
