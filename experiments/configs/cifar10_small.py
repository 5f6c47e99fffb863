"""CIFAR-10 on a small budget: a ResNet-8 on all its images, in minutes on a CPU core.

    python -m experiments.table --config=experiments/configs/cifar10_small.py \\
        --config.data_dir=DIR --rows=conv,lc,lc_mean10,lc_mean10_joined --seeds=3 \\
        --out=runs/table

One block in each stage, a stem of stride 2 and 30 epochs, instead of the paper's ResNet-20 and 200.
In so few steps, networks that sleep learn best with a higher rate than those of the paper's grid:
rates were chosen on held-out training images (`experiments/results/cifar10_small/README.md`).
"""

from experiments.configs import cifar10

RATES = {'conv': 1e-2, 'lc': 1e-3, 'lc_translations': 1e-3}
TILED, JOINED = 3e-3, 1e-2  # for kinds that sleep


def get_config(kind: str = 'lc_hebbian'):
    config = cifar10.get_config(kind)
    config.model.stage_sizes = (1, 1, 1)
    config.model.stem = 'strided'
    config.batch_size = 100
    config.epochs = 30
    config.evaluate_every = 5
    joined = config.pools.kind == 'joined'
    config.learning_rate = RATES.get(kind, JOINED if joined else TILED)
    if joined:
        config.momentum = 0.97
    return config
