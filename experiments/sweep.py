"""Trains a network for every combination of values of config fields, and compares them.

    python -m experiments.sweep --config=experiments/configs/digits.py:lc_mean_joined \\
        --over config.sleep.every=1,10,100 --over config.learning_rate=5e-3,1e-2 --seeds=3 \\
        --out=runs/sweep

Each run has its own workdir, OUT/NAME-SEED. If it is stopped, the same command continues, and other
values or more seeds add runs. At the end it writes what experiments.compare writes of all runs in
OUT: comparison.md, .json, .csv and .png.

To choose values, hold out training images with --config.validation=N: the test images are for the
result. --jobs=N trains N networks at the same time, and --cluster=slurm submits the work to SLURM
(docs/many_runs.md).
"""

import pathlib

from absl import flags

from experiments.common import choices, cli, many
from experiments.common.runs import Runs
from experiments.reports import comparison, comparison_files
from lcn_jax.files import local_folder

CONFIG = cli.define_config(
    'A config of the project (digits, cifar10, ...) or a file with get_config(kind); a colon; the '
    'kind.'
)
OVER = flags.DEFINE_multi_string(
    'over', [], 'config.FIELD=VALUE,VALUE,...: values to try. Several fields: all combinations.'
)
SEEDS = flags.DEFINE_integer('seeds', 1, 'Networks of each combination.', lower_bound=1)
OUT = flags.DEFINE_string('out', 'runs/sweep', 'Folder for the runs and their comparison.')


def main(argv):
    del argv
    local_folder('--out', OUT.value)
    configs = {}
    for name, config in choices.combinations(CONFIG.value, OVER.value).items():
        for seed in range(SEEDS.value):
            configs[f'{name}-{seed}'] = config.copy_and_resolve_references()
            configs[f'{name}-{seed}'].seed = seed
    many.run(Runs(OUT.value, configs), report)


def report(out: str) -> str:
    """Writes the comparison of all runs in a folder; returns what to print."""
    workdirs = sorted(str(path.parent) for path in pathlib.Path(out).glob('*/config.json'))
    return comparison_files.write(comparison.compare(*comparison.read(workdirs)), out)


if __name__ == '__main__':
    cli.run(main)
