"""How much sleep is enough? Accuracy against the patterns that neurons see for each image.

    python -m experiments.enough_sleep --out=experiments/results/enough_sleep

Networks on digits that see a few patterns in every wake step (the rule `noise`, without a separate
sleep), by AdamW and by SGD, in joined and in tiled pools. Their momentum is each neuron's own, made
alike by the same patterns, or averaged over the pool at no cost; by SGD there may be none. Beside
them: convolution, LC without patterns, and the paper's sleep after every tenth step.

Trains what OUT/runs.json lacks, adds it, and writes OUT/table.md and OUT/picture.png. If it is
stopped, the same command continues, and begins with adding the runs that were finished.
"""

import itertools
import os
from collections.abc import Iterator
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from experiments.common import cli, kept
from experiments.common.kept import Point
from experiments.configs import digits
from experiments.reports import enough_sleep as report
from experiments.reports import rows
from lcn_jax.files import local_folder

OUT = flags.DEFINE_string('out', 'experiments/results/enough_sleep', 'Folder for the results.')
RUNS = flags.DEFINE_string(
    'runs', 'runs/enough_sleep', 'Folder for the workdirs, and in data/ for the digits.'
)
SEEDS = flags.DEFINE_integer('seeds', 3, 'Networks at each point.', lower_bound=1)
EPOCHS = flags.DEFINE_integer('epochs', None, 'Instead of those of the config.', lower_bound=1)

PATTERNS = {'joined': (1, 8, 32, 128), 'tiled': (8, 128)}
BY_SGD = {'optimizer': 'sgd', 'learning_rate': digits.RATES['lc_sgd']}
MOMENTA = {
    'own': {},
    'equalised': {'sleep.equalise_momentum': True},
    'shared': {'sleep.share_moments': True},
    # The steps of a momentum of 0.9 are ten times as long in the end.
    'none': {'momentum': 0.0, 'learning_rate': 10 * digits.RATES['lc_sgd']},
}
NOISE = {'sleep.rule': 'noise', 'sleep.every': 1, 'model.init': 'common'}
# name: (optimizer, row of the table).
REFERENCES = {
    'conv': ('adamw', 'conv'),
    'conv by SGD': ('sgd', 'relax_never'),  # it is one, step by step
    'LC': ('adamw', 'lc'),
    'LC by SGD': ('sgd', 'lc_sgd'),
    'ws(10), Hebbian, joined pools': ('adamw', 'lc_hebbian10_joined'),
    'ws(10), Hebbian, tiled pools': ('adamw', 'lc_hebbian10_tiled'),
}


def main(argv):
    del argv
    for flag in (OUT, RUNS):
        local_folder(f'--{flag.name}', flag.value)
    kept.complete(OUT.value, RUNS.value, runs(), report.markdown, report.draw)


def runs() -> list[tuple[Point, ConfigDict]]:
    """All settings with the first seed, then with the second, and so on."""
    found = []
    for seed in range(SEEDS.value):
        for point, config in settings():
            config.seed = seed
            found.append(({**point, 'seed': seed}, config))
    return found


def settings() -> Iterator[tuple[Point, ConfigDict]]:
    for name, (optimizer, row) in REFERENCES.items():
        yield {'optimizer': optimizer, 'reference': name}, config_of(row, {})
    for optimizer, (pools, counts) in itertools.product(report.OPTIMIZERS, PATTERNS.items()):
        for momentum, patterns in itertools.product(report.MOMENTA[optimizer], counts):
            point = {
                'optimizer': optimizer,
                'pools': pools,
                'momentum': momentum,
                'patterns': patterns,
            }
            fields = NOISE | {'pools.kind': pools, 'sleep.noise.patterns': patterns}
            fields |= BY_SGD if optimizer == 'sgd' else {'learning_rate': 1e-2}
            yield point, config_of('lc', fields | MOMENTA[momentum])


def config_of(row: str, fields: dict[str, Any]) -> ConfigDict:
    config = rows.config_of(row, vars(digits), fields)
    if EPOCHS.value is not None:
        config.epochs = EPOCHS.value
    config.data_dir, config.evaluate_every = os.path.join(RUNS.value, 'data'), config.epochs
    config.log_every, config.checkpoint_every = 1000, 0
    return config


if __name__ == '__main__':
    cli.run(main)
