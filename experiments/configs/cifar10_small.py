"""CIFAR-10 on a small budget: half as wide a ResNet-20, on 2,000 images, in minutes on a CPU core.

    python -m experiments.table --config=experiments/configs/cifar10_small.py \\
        --config.data_dir=DIR --paddings=0 --rows=conv,lc,lc_mean1,lc_mean10,lc_mean100 --seeds=3 \\
        --out=runs/table
    python -m experiments.table --config=experiments/configs/cifar10_small.py \\
        --config.data_dir=DIR --paddings=4 --rows=conv,lc,lc_reps4 --seeds=3 --out=runs/table

The learning rates are from the paper's grid. `experiments/results/cifar10_small` has what came of
it.
"""

from experiments.configs import cifar10


def get_config(kind: str = 'lc_hebbian'):
    config = cifar10.get_config(kind)
    config.train_images = 2000
    config.model.width = 8
    config.batch_size = 50
    config.epochs = 20
    config.evaluate_every = 10
    config.learning_rate = 5e-3 if kind == 'conv' else 1e-3
    return config
