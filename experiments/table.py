"""The paper's Table 1: all kinds of network, paddings and seeds, by one command.

    python -m experiments.table --config=experiments/configs/cifar10.py --config.data_dir=DIR \\
        --paddings=0,4,8 --seeds=5 --out=runs/table

Trains what is missing, each run in its own workdir, OUT/DATASET-PADDING/ROW-SEED. If it is stopped,
the same command continues, and another config adds columns. At the end, it writes OUT/table.md,
OUT/table.json and OUT/table.png with all runs that are done, and names the runs that failed. Rows
with n repetitions take n times more steps in an epoch; if n does not divide the batch size, the
batch size is rounded down.

Several processes, also on several hosts, may run the same command at the same time: each takes the
next run that no other process trains, and the last one to finish writes the table.

With --search, it instead looks for the best learning rate and weight decay of each row on a tenth
of the training images, which is held out, and prints them, to be put into the config. A point of
the grid at which training diverges counts as 0 %.
"""

import itertools
import os
import re
import runpy

from absl import flags
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict, config_flags

from experiments.common import cli
from experiments.common.provenance import provenance
from experiments.reports import rows as known
from experiments.reports import table as table_report
from lcn_jax.data import sources
from lcn_jax.errors import Diverged, InUse, Stopped, UsageError
from lcn_jax.files import local_folder, read_json, to_json, write_text, writing
from lcn_jax.training import checkpoint, faults
from lcn_jax.training import config as configs
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.measures import evaluated_split
from lcn_jax.training.progress import Progress
from lcn_jax.training.train import train_and_evaluate

CONFIG = cli.define_config('File with get_config(kind); no colon.')
OUT = flags.DEFINE_string('out', 'runs/table', 'Folder for the runs and the table.')
SEEDS = flags.DEFINE_integer('seeds', 5, 'Networks in each cell.', lower_bound=1)
EPOCHS = flags.DEFINE_integer('epochs', None, 'Instead of those of the config.', lower_bound=1)
PADDINGS = flags.DEFINE_list(
    'paddings', None, 'Of the translations, in pixels; by default that of lc_translations.'
)
ROWS = flags.DEFINE_list(
    'rows', None, f'By default those of the paper. Known: {", ".join(known.ROWS)}.'
)
SEARCH = flags.DEFINE_bool('search', False, 'Look for the best learning rates and weight decays.')

# The paper's grid.
LEARNING_RATES = {'conv': (1e-1, 5e-2, 1e-2, 5e-3), 'lc': (1e-3, 5e-4, 1e-4, 5e-5)}
WEIGHT_DECAYS = (1e-2, 1e-4)

STOPPED = 'stopped; the same command continues from there.'


def main(argv):
    del argv
    local_folder('--out', OUT.value)
    rows = ROWS.value or list(known.PAPER)
    unknown = [row for row in rows if row not in known.ROWS]
    if unknown:
        raise UsageError(f'unknown row {unknown[0]!r}; known: {", ".join(known.ROWS)}.')
    if given('conv').validation:
        raise UsageError(
            'leave out --config.validation: --search holds out images by itself, and a table is '
            'evaluated on the test images.'
        )
    if not cells(rows):
        raise UsageError(
            'all copies of an image would be the same: rows with repetitions need --paddings above '
            '0.'
        )
    (search if SEARCH.value else tabulate)(rows)


def tabulate(rows: list[str]) -> None:
    """Trains what is missing and writes the table of all runs that are done.

    Raises:
      UsageError: some runs failed. The table has the others and names those that failed.
    """
    runs = {}
    for (padding, row), seed in itertools.product(cells(rows), range(SEEDS.value)):
        config = config_of(row, padding, seed)
        runs[f'{OUT.value}/{column(config)}/{row}-{seed}'] = config
    done, failed = train_all(runs)
    if not done:
        raise UsageError(f'no run succeeded; {next(iter(failed))}: {next(iter(failed.values()))}')
    report = table_report.aggregate(table_report.read(OUT.value)) | {'failed': failed}
    text = table_report.markdown(report)
    write_text(f'{OUT.value}/table.md', text)
    write_text(f'{OUT.value}/table.json', to_json(report, indent=1))
    picture = f'{OUT.value}/table.png'
    with writing(picture):
        table_report.plot(report).savefig(picture, dpi=150)
    print(f'\n{text}\n{OUT.value}/table.md, table.json and table.png are written')
    if failed:
        raise UsageError(f'{len(failed)} of {len(runs)} runs failed; the table names them.')


def search(rows: list[str]) -> None:
    """Prints the best point of the grid for each row, by accuracy on the validation images."""
    config = given('conv')
    held_out = len(sources.Source(config.dataset, config.data_dir).split('train')) // 10
    for padding, row in cells(rows):
        runs = {}
        rates = LEARNING_RATES['conv' if row == 'conv' else 'lc']
        for rate, decay in itertools.product(rates, WEIGHT_DECAYS):
            config = config_of(row, padding, seed=0)
            config.validation = held_out
            config.learning_rate, config.weight_decay = rate, decay
            runs[f'{OUT.value}/search/{column(config)}/{row}-{rate:g}-{decay:g}'] = config
        results, failed = train_all(runs)
        if failed:  # the best of only some points would be misleading
            raise UsageError('; '.join(f'{workdir}: {e}' for workdir, e in failed.items()))
        best = max(results, key=lambda workdir: results[workdir]['validation_top1'])
        print(
            f'{row}, padding {padding}: learning_rate {runs[best].learning_rate:g}, weight_decay '
            f'{runs[best].weight_decay:g} (validation {results[best]["validation_top1"]:.2%})'
        )


def cells(rows: list[str]) -> list[tuple[int, str]]:
    """(padding, row) pairs; rows with repetitions are left out where there is no padding."""
    pairs = itertools.product(paddings(), rows)
    return [(padding, row) for padding, row in pairs if padding or 'reps' not in row]


def column(config: ConfigDict) -> str:
    """The folder of a column: the dataset, whose name may have slashes, and the padding."""
    return f'{re.sub("[^A-Za-z0-9_.]", "_", config.dataset)}-{config.translations.padding}'


def paddings() -> list[int]:
    if PADDINGS.value is None:
        return [given('lc_translations').translations.padding]
    if not all(padding.isdigit() for padding in PADDINGS.value):
        raise UsageError(f'--paddings={",".join(PADDINGS.value)} must be a list of pixels.')
    return [int(padding) for padding in PADDINGS.value]


def given(kind: str) -> ConfigDict:
    """The config of a kind, with the values from the command line."""
    flag = flags.FLAGS['config']
    path = config_flags.get_config_filename(flag)
    if ':' in path:
        raise UsageError(
            f'--config={path}: leave out the colon and the kind; --rows has the kinds.'
        )
    config = runpy.run_path(path)['get_config'](kind)
    config.update(unflatten_dict(config_flags.get_override_values(flag), sep='.'))
    return config


def config_of(row: str, padding: int, seed: int) -> ConfigDict:
    settings = known.ROWS[row]
    config = given(settings.kind)
    config.seed, config.translations.padding = seed, padding
    if EPOCHS.value is not None:
        config.epochs = EPOCHS.value
    config.update_from_flattened_dict({'translations.repetitions': 1} | settings.fields)
    config.batch_size -= config.batch_size % config.translations.repetitions
    return config


def train_all(runs: dict[str, ConfigDict]) -> tuple[dict[str, dict], dict[str, str]]:
    """Trains each config in its workdir, unless that has been done or another process does it.

    Returns:
      The last record and the provenance of every run, and why runs failed, both by workdir.

    Raises:
      Stopped: a signal came, or other processes still train some of the runs.
    """
    done, failed, left, experiment = {}, {}, list(runs), None
    with faults.StopRequests() as requests:  # for those between runs
        while left:
            in_use = []
            for workdir in left:
                if requests.should_stop():
                    raise Stopped(STOPPED)
                config, name = runs[workdir], os.path.relpath(workdir, OUT.value)
                try:
                    result = read_done(config, workdir)
                    if result is None:
                        if not experiment or experiment.config != configs.without_seed(config):
                            experiment = Experiment.create(config)
                        result = train_one(config, workdir, Progress(name), experiment)
                except InUse:
                    in_use.append(workdir)
                    continue
                except UsageError as e:
                    failed[workdir], outcome = str(e), f'failed: {e}'
                else:
                    done[workdir] = result
                    accuracy = result[f'{evaluated_split(config)}_top1']
                    outcome = f'accuracy {accuracy:.1%}  {result["seconds"]:.0f} s'
                number = f'{len(done) + len(failed)}/{len(runs)}'
                print(f'{number}  {name}  {outcome}', flush=True)
            if len(in_use) == len(left):
                raise Stopped(
                    f'{len(done) + len(failed)} of {len(runs)} runs have ended; other processes '
                    'are training the rest, and the last of them to finish goes on from there.'
                )
            left = in_use  # those of them that have ended meanwhile are read, or continued
    return done, failed


def read_done(config: ConfigDict, workdir: str) -> dict | None:
    """The contents of WORKDIR/done.json, or None.

    Raises:
      UsageError: the workdir has the result of another config.
    """
    path, config_path = (os.path.join(workdir, name) for name in ('done.json', 'config.json'))
    if not (os.path.exists(path) and os.path.exists(config_path)):
        return None
    checkpoint.check_same(workdir, config)
    return read_json(path, 'delete it, and run the same command again')


def train_one(config: ConfigDict, workdir: str, show: Progress, experiment: Experiment) -> dict:
    """Trains, writes the last record and its provenance to WORKDIR/done.json, and returns them."""
    try:
        result = train_and_evaluate(config, workdir, show, experiment) | provenance()
    except Stopped:
        raise Stopped(STOPPED) from None
    except Diverged:
        if not SEARCH.value:
            raise
        result = {'validation_top1': 0.0, 'seconds': 0.0, 'diverged': True}
    write_text(os.path.join(workdir, 'done.json'), to_json(result))
    return result


if __name__ == '__main__':
    cli.run(main)
