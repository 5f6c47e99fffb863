"""CIFAR-10 on a small budget: a ResNet-8 on all its images, in minutes on a CPU core.

    python -m experiments.table --config=experiments/configs/cifar10_small.py \\
        --config.data_dir=DIR --rows=conv,lc,lc_reps4,lc_mean1,lc_mean10,lc_mean100 --seeds=3 \\
        --out=runs/table

One block in each stage, a stem of stride 2 and 12 epochs, instead of the paper's ResNet-20 and 200.
In so few steps, networks that sleep learn best with a higher rate than those of the paper's grid:
rates were chosen on held-out training images (`experiments/results/README.md`).
"""

from experiments.configs import cifar10


def get_config(kind: str = 'lc_hebbian'):
    config = cifar10.get_config(kind)
    config.model.stage_sizes = (1, 1, 1)
    config.model.stem = 'strided'
    config.batch_size = 100
    config.epochs = 12
    config.evaluate_every = 3
    if kind == 'conv':
        config.learning_rate = 5e-3
    else:
        config.learning_rate = 1e-3 if config.sleep.rule == 'none' else 3e-3
    return config
