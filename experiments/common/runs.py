"""Many short runs in one JSON file: what is in it has been trained, and only the rest is trained.

The file has a record for each run in its list `runs`: the point, which says in a few words which
run it is (`{'kind': 'conv', 'seed': 0}`), what the run measured at its end, the fields of its
config that are not the defaults, and its provenance. It is written after every run.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from experiments.common import pictures
from experiments.common.provenance import provenance
from lcn_jax.errors import UsageError
from lcn_jax.files import Path, locate, read_json, to_json, write_text
from lcn_jax.training import config as configs
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.metrics import awake
from lcn_jax.training.progress import Progress
from lcn_jax.training.train import train_and_evaluate

Point = Mapping[str, Any]
MEASURED = ('test_top1', 'test_top5', 'train_loss', 'step', 'parameters', 'seconds')
BESIDE = ('data_dir', 'workers')  # fields that change nothing of what a run learns


@contextlib.contextmanager
def reported(path: Path, markdown: Callable, draw: Callable) -> Iterator[Path]:
    """Around the training: writes table.md and picture.png beside the file, of all its records.

    Also if the training stops with an exception.
    """
    try:
        yield path
    finally:
        if locate(path).exists():
            records, folder = read(path), locate(path).parent
            write_text(folder / 'table.md', markdown(records).strip() + '\n')
            pictures.write(draw(records), folder / 'picture.png')


def train_missing(path: Path, runs: Sequence[tuple[Point, ConfigDict]]) -> None:
    """Trains the runs that the file lacks, one after the other.

    Runs that differ in their seed only share their compiled programs.

    Raises:
      UsageError: the file has one of these points with another config.
      Stopped: a signal came; the run that was interrupted starts anew next time.
    """
    records = read(path) if locate(path).exists() else []
    experiments = {}
    for number, (point, config) in enumerate(runs, 1):
        record = next((known for known in records if known['point'] == point), None)
        if record is None:
            of_seeds = configs.without_seed(config)
            if of_seeds not in experiments:
                experiments[of_seeds] = Experiment.create(config)
            record = _train(point, config, experiments[of_seeds])
            records.append(record)
            write(path, records)
            words = ' '.join(map(str, point.values()))
            print(f'{number}/{len(runs)}  {words}  {record["test_top1"]:.1%}', flush=True)
        elif record['config'] != changed(config):
            raise UsageError(
                f'{path} has a run {dict(point)} with another config: choose another --out.'
            )


def _train(point: Point, config: ConfigDict, experiment: Experiment) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as workdir:
        label = ' '.join(map(str, point.values()))
        last = train_and_evaluate(config, workdir, Progress(label), experiment)
    measured = {name: last[name] for name in MEASURED}
    measured['weight_deviation'] = awake(last, 'weight_deviation')
    return {'point': dict(point)} | measured | {'config': changed(config)} | provenance()


def changed(config: ConfigDict) -> dict[str, Any]:
    """The fields of a config that are not the defaults, as JSON has them."""
    default = flatten_dict(configs.default().to_dict(), sep='.')
    values = flatten_dict(config.to_dict(), sep='.')
    return {
        field: list(value) if isinstance(value, tuple) else value
        for field, value in sorted(values.items())
        if field not in BESIDE and value != default.get(field)
    }


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file; UsageError if it cannot be read."""
    return read_json(path, 'delete it, and run the same command again')['runs']


def write(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """A line for each record."""
    lines = ',\n'.join(to_json(record).strip() for record in records)
    write_text(path, f'{{"runs": [\n{lines}\n]}}\n')
