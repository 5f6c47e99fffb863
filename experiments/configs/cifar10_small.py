"""CIFAR-10 on a small budget: a ResNet-8 on all its images, in minutes on a CPU core.

    python -m experiments.table --config=experiments/configs/cifar10_small.py \\
        --config.data_dir=DIR --rows=conv,lc,lc_mean10,lc_mean10_joined --seeds=3 \\
        --out=runs/table

One block in each stage, a stem of stride 2 and 30 epochs, instead of the paper's ResNet-20 and 200.
In so few steps, networks that sleep learn best with a higher rate than those of the paper's grid:
rates were chosen on held-out training images (`experiments/results/cifar10_small/README.md`).
"""

from experiments.configs import common

RATES = {'conv': 1e-2, 'lc': 1e-3, 'lc_translations': 1e-3, 'tiled': 3e-3, 'joined': 1e-2}
ROWS = common.every_step(tiled=3e-3, joined=1e-2)
# Chosen in the same way (`experiments/results/feedback/README.md`: other rows without backprop or
# with local BatchNorm are best with the rate of their kind).
ROWS |= {row: {'learning_rate': 3e-3} for row in ('lc_local', 'lc_alignment')}
ROWS |= {
    f'lc_mean1_joined_{other}': ROWS['lc_mean1_joined']
    for other in ('local', 'alignment', 'alignment_asleep')
}


def get_config(kind: str = 'lc_hebbian'):
    return common.small('cifar10', 32, kind, RATES)
