"""Finished runs compared by the config fields in which they differ."""

import dataclasses
import glob
import json
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
from ml_collections import ConfigDict

from experiments.common.runs import DONE, FAILED, has, read_done, reason
from experiments.reports.table import paired
from lcn_jax.errors import UsageError
from lcn_jax.training import checkpoint, metrics
from lcn_jax.training.kinds import KINDS
from lcn_jax.training.measures import evaluated_split

NOT_COMPARED = ('seed', *checkpoint.MAY_CHANGE_ON_RESUME)
AXIS = {'connectivity': 'conv', 'sleep.rule': 'none'}  # of every kind, unless it says otherwise


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: its fields to compare, by their names with dots, and its last record.

    The record has the 'split' that it was evaluated on, and the provenance, if that is known.
    """

    workdir: str
    seed: int
    fields: dict[str, Any]
    record: dict[str, Any]

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100 * self.record[f'{self.record["split"]}_top1']


@dataclasses.dataclass(frozen=True)
class Row:
    """The runs of one config, by their seeds. values: of the fields in which configs differ.

    difference: to the baseline, if there is one, as of `table.paired`.
    """

    name: str
    kind: str
    values: dict[str, Any]
    runs: dict[int, Run]
    difference: dict[str, Any] | None = None

    @property
    def accuracies(self) -> dict[int, float]:
        return {seed: run.accuracy for seed, run in sorted(self.runs.items())}

    @property
    def mean(self) -> float:
        return statistics.mean(self.accuracies.values())

    @property
    def spread(self) -> float | None:
        return statistics.stdev(self.accuracies.values()) if len(self.runs) > 1 else None

    @property
    def deviation(self) -> float | None:
        """Of the weights, mean over the runs; None if it has no meaning for one of them."""
        values = [metrics.awake(run.record, 'weight_deviation') for run in self.runs.values()]
        return None if None in values else statistics.mean(values)

    @property
    def seconds(self) -> float:
        return statistics.mean(run.record['seconds'] for run in self.runs.values())

    @property
    def workdirs(self) -> list[str]:
        return [run.workdir for _, run in sorted(self.runs.items())]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """rows: one for each config, best accuracy first. splits: what the runs were evaluated on.

    baseline: the name of the row that others are compared with, or ''. left_out: why, by workdir.
    """

    rows: list[Row]
    splits: str
    baseline: str
    left_out: dict[str, str]


def workdirs(patterns: Sequence[str]) -> list[str]:
    """The folders that match the patterns; UsageError if there is none."""
    found = sorted({path for pattern in patterns for path in glob.glob(pattern)})
    if not found:
        raise UsageError(f'--workdirs={",".join(patterns)} matches no folder.')
    return found


def compared_fields(config: ConfigDict) -> dict[str, Any]:
    """The fields to compare, by their names with dots: equal for the seeds of one network."""
    values = flax.traverse_util.flatten_dict(config.to_dict(), sep='.')
    return {name: value for name, value in values.items() if name not in NOT_COMPARED}


def read_records(workdir: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The fields to compare, by their names with dots, and the records of a run.

    Raises:
      UsageError: the folder holds no run.
    """
    records = metrics.read(os.path.join(workdir, 'metrics.jsonl'))
    return compared_fields(checkpoint.read_config(workdir)), records


def read(folders: Sequence[str]) -> tuple[list[Run], dict[str, str]]:
    """The finished runs in these folders, and why there is none in the others.

    Raises:
      UsageError: none of them is finished.
    """
    runs, left_out = [], {}
    for workdir in folders:
        try:
            runs.append(_read(workdir))
        except UsageError as error:
            left_out[workdir] = str(error)
    if not runs:
        raise UsageError(f'there is no finished run to compare; {next(iter(left_out.values()))}')
    return runs, left_out


def _read(workdir: str) -> Run:
    if has(workdir, FAILED):
        raise UsageError(f'the run in {workdir} failed: {reason(workdir)}')
    fields, records = read_records(workdir)
    config = checkpoint.read_config(workdir)
    epoch = records[-1]['epoch'] if records else 0
    if epoch < config.epochs or 'seconds' not in records[-1]:
        raise UsageError(
            f'the run in {workdir} is not finished: it is at epoch {epoch:.3g} of {config.epochs}.'
        )
    done = read_done(workdir) if has(workdir, DONE) else {}
    return Run(
        workdir, config.seed, fields, done | records[-1] | {'split': evaluated_split(config)}
    )


def compare(runs: Sequence[Run], left_out: Mapping[str, str], baseline: str = '') -> Comparison:
    """Rows of runs that differ in their seed only.

    Raises:
      UsageError: no row has the name of the baseline.
    """
    by_config, left_out = defaultdict(dict), dict(left_out)
    for run in runs:
        of_config = by_config[json.dumps(run.fields, sort_keys=True)]
        first = of_config.setdefault(run.seed, run)
        if first is not run:
            left_out[run.workdir] = f'{run.workdir} repeats seed {run.seed} of {first.workdir}.'
    configs = [json.loads(key) for key in by_config]
    fields = differing(configs)
    rows = [
        Row(name, kind(config)[0], {field: config.get(field) for field in fields}, of_config)
        for name, config, of_config in zip(names(configs), configs, by_config.values())
    ]
    if baseline:
        rows = _with_differences(rows, baseline)
    splits = '/'.join(sorted({run.record['split'] for run in runs}))
    return Comparison(sorted(rows, key=lambda row: -row.mean), splits, baseline, left_out)


def _with_differences(rows: list[Row], baseline: str) -> list[Row]:
    found = [row for row in rows if row.name == baseline]
    if not found:
        raise UsageError(
            f'--baseline={baseline} is no row: give a name of the table without it, such as '
            f'{rows[0].name!r}.'
        )
    return [
        dataclasses.replace(row, difference=paired(row.accuracies, found[0].accuracies))
        for row in rows
    ]


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields that do not have the same value in all configs."""
    names = sorted({name for config in configs for name in config})
    return [name for name in names if len({json.dumps(c.get(name)) for c in configs}) > 1]


def names(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each config: 'lc_mean, every 10, share_moments'.

    Its kind, and the fields in which configs differ, but those that its kind decides: by their last
    names where these tell them apart, with their values, but for flags.
    """
    fields = differing(configs)
    last = Counter(field.rpartition('.')[2] for field in (*fields, 'kind'))
    found = []
    for config in configs:
        name, decided = kind(config)
        parts = [name]
        for field in fields:
            value, short = config.get(field), field.rpartition('.')[2]
            shown = value is not False and value not in (None, '')
            if shown and field not in decided:
                label = short if last[short] == 1 else field
                parts.append(label if value is True else f'{label} {value}')
        found.append(', '.join(parts))
    return found


def kind(config: Mapping[str, Any]) -> tuple[str, set[str]]:
    """The kind with the most settings of those that the config has, and which fields it decides."""
    known = {
        name: settings
        for name, settings in KINDS.items()
        if all(config.get(field) == value for field, value in (AXIS | settings).items())
    }
    if known:
        name = max(known, key=lambda name: len(known[name]))
        return name, {*AXIS, *known[name]}
    parts = [str(config.get(field)) for field in AXIS]
    return '_'.join(part for part in parts if part != 'none'), {*AXIS}
