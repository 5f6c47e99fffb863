"""Runs whose results are kept in one JSON file: only those that it lacks are trained.

The file has a record for each run in its list `runs`: the point, which says in a few words which
run it is (`{'kind': 'conv', 'seed': 0}`), what the run measured at its end, the fields of its
config that are not the defaults, and its provenance. So what is committed needs no workdirs.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax.traverse_util import flatten_dict
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from experiments.common import many, pictures
from experiments.common.provenance import FIELDS
from experiments.common.runs import DONE, Runs, has, read_done
from lcn_jax.errors import UsageError
from lcn_jax.files import make_folder, read_json, to_json, write_text
from lcn_jax.training import checkpoint
from lcn_jax.training import config as configs
from lcn_jax.training.metrics import awake

Point = Mapping[str, Any]
Records = list[dict[str, Any]]
MEASURED = ('test_top1', 'test_top5', 'train_loss', 'step', 'parameters', 'seconds', *FIELDS)
BESIDE = ('data_dir', 'workers')  # fields that change nothing of what a run learns


def complete(
    out: str,
    workdirs: str,
    runs: Sequence[tuple[Point, ConfigDict]],
    markdown: Callable[[Records], str],
    draw: Callable[[Records], Figure],
    measure: Callable[[str], Mapping[str, Any]] = lambda workdir: {},
) -> None:
    """Trains the runs that OUT/runs.json lacks; adds them, and writes table.md and picture.png.

    Runs in `workdirs` that have been finished are added first, also if the training then stops.

    measure: of the workdir of a finished run, what else its record says.

    Raises:
      UsageError: the file or a workdir has one of these points with another config, or runs failed.
      Stopped: a signal came.
    """
    path = os.path.join(make_folder(out), 'runs.json')

    def report(_):
        records = read(path)
        kept = [record['point'] for record in records]
        for point, config in runs:
            workdir = os.path.join(workdirs, name(point))
            if point not in kept and has(workdir, DONE):
                checkpoint.check_same(workdir, config)
                record = record_of(point, config, read_done(workdir))
                records.append({**record, **measure(workdir)})
        if not records:
            return ''
        write(path, records)
        table = markdown(records).strip()
        write_text(os.path.join(out, 'table.md'), f'{table}\n')
        pictures.save(draw(records), os.path.join(out, 'picture.png'))
        return f'{table}\n\n{path}, table.md and picture.png are written'

    text = report(workdirs)
    kept = {name(record['point']): record['config'] for record in read(path)}
    for point, config in runs:
        if kept.get(name(point), changed(config)) != changed(config):
            raise UsageError(
                f'{path} has a run {dict(point)} with another config: choose another --out.'
            )
    missing = {name(point): config for point, config in runs if name(point) not in kept}
    if missing:
        many.run(Runs(workdirs, missing), report)
    else:
        print(text)


def name(point: Point) -> str:
    """The folder of a run's workdir."""
    return re.sub('[^A-Za-z0-9_.-]+', '_', '-'.join(map(str, point.values())))


def record_of(point: Point, config: ConfigDict, done: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a finished run, from its done.json."""
    measured = {field: done[field] for field in MEASURED}
    deviation = {'weight_deviation': awake(done, 'weight_deviation')}
    return {'point': dict(point)} | measured | deviation | {'config': changed(config)}


def changed(config: ConfigDict) -> dict[str, Any]:
    """The fields of a config that are not the defaults, as JSON has them."""
    default = flatten_dict(configs.default().to_dict(), sep='.')
    values = flatten_dict(config.to_dict(), sep='.')
    return {
        field: list(value) if isinstance(value, tuple) else value
        for field, value in sorted(values.items())
        if field not in BESIDE and value != default.get(field)
    }


def read(path: str) -> Records:
    """The records of a file, none if there is no file; UsageError if it is damaged."""
    if not os.path.exists(path):
        return []
    return read_json(path, 'delete it, and run the same command again')['runs']


def write(path: str, records: Records) -> None:
    """A line for each record."""
    lines = ',\n'.join(to_json(record).strip() for record in records)
    write_text(path, f'{{"runs": [\n{lines}\n]}}\n')
