"""The paper's Table 1: all kinds of network, paddings and seeds, by one command.

    python -m experiments.table --config=experiments/configs/cifar10.py --config.data_dir=DIR \\
        --paddings=0,4,8 --seeds=5 --out=runs/table

Trains what is missing, each run in its own workdir, OUT/DATASET-PADDING/ROW-SEED. If it is stopped,
the same command continues, and another config adds columns. At the end, it writes OUT/table.md,
OUT/table.json and OUT/table.png with all runs that are done, and names the runs that failed. Rows
with n repetitions take n times more steps in an epoch; if n does not divide the batch size, the
batch size is rounded down.

--jobs=N trains N networks at the same time, and --cluster=slurm submits the work to SLURM. Several
processes, also on several hosts, may run the same command: each takes the next run that no other
process trains (docs/many_runs.md).
"""

import functools
import itertools
import re
import runpy
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments.common import cli, many
from experiments.common.runs import Runs
from experiments.reports import rows as known
from experiments.reports import table as table_report
from lcn_jax.errors import UsageError
from lcn_jax.files import local_folder

CONFIG = cli.define_config('File with get_config(kind); no colon.')
OUT = flags.DEFINE_string('out', 'runs/table', 'Folder for the runs and the table.')
SEEDS = flags.DEFINE_integer('seeds', 5, 'Networks in each cell.', lower_bound=1)
EPOCHS = flags.DEFINE_integer('epochs', None, 'Instead of those of the config.', lower_bound=1)
PADDINGS = flags.DEFINE_list(
    'paddings', None, 'Of the translations, in pixels; by default that of the row lc_reps4.'
)
ROWS = flags.DEFINE_list(
    'rows', None, f'By default those of the paper. Known: {", ".join(known.ROWS)}.'
)


def main(argv):
    del argv
    local_folder('--out', OUT.value)
    rows = ROWS.value or list(known.PAPER)
    unknown = [row for row in (*rows, *file().get('ROWS', {})) if row not in known.ROWS]
    if unknown:
        raise UsageError(f'unknown row {unknown[0]!r}; known: {", ".join(known.ROWS)}.')
    if given('conv').validation:
        raise UsageError(
            'leave out --config.validation: a table is evaluated on the test images. '
            'experiments.sweep compares values on images that are held out.'
        )
    if not cells(rows):
        raise UsageError(
            'all copies of an image would be the same: rows with repetitions need --paddings above '
            '0.'
        )
    configs = {}
    for (padding, row), seed in itertools.product(cells(rows), range(SEEDS.value)):
        config = config_of(row, padding, seed)
        configs[f'{column(config)}/{row}-{seed}'] = config
    many.run(Runs(OUT.value, configs), table_report.write)


def cells(rows: list[str]) -> list[tuple[int, str]]:
    """(padding, row) pairs; rows with repetitions are left out where there is no padding."""
    pairs = itertools.product(paddings(), rows)
    return [(padding, row) for padding, row in pairs if padding or 'reps' not in row]


def column(config: ConfigDict) -> str:
    """The folder of a column: the dataset, whose name may have slashes, and the padding."""
    return f'{re.sub("[^A-Za-z0-9_.]", "_", config.dataset)}-{config.translations.padding}'


def paddings() -> list[int]:
    if PADDINGS.value is None:
        return [given('lc_reps4').translations.padding]
    if not all(padding.isdigit() for padding in PADDINGS.value):
        raise UsageError(f'--paddings={",".join(PADDINGS.value)} must be a list of pixels.')
    return [int(padding) for padding in PADDINGS.value]


@functools.cache
def file() -> dict[str, Any]:
    """What the config file defines."""
    path = config_flags.get_config_filename(flags.FLAGS['config'])
    if ':' in path:
        raise UsageError(
            f'--config={path}: leave out the colon and the kind; --rows has the kinds.'
        )
    return runpy.run_path(path)


def given(row: str, **fields: Any) -> ConfigDict:
    """The config of a row, with these fields and those from the command line."""
    from_flags = config_flags.get_override_values(flags.FLAGS['config'])
    return known.config_of(row, file(), from_flags | fields)


def config_of(row: str, padding: int, seed: int) -> ConfigDict:
    epochs = {} if EPOCHS.value is None else {'epochs': EPOCHS.value}
    config = given(row, seed=seed, **{'translations.padding': padding}, **epochs)
    config.batch_size -= config.batch_size % config.translations.repetitions
    return config


if __name__ == '__main__':
    cli.run(main)
