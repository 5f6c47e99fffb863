"""Finished runs compared by the config fields in which they differ: a table and a picture."""

import dataclasses
import glob
import json
import os
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import flax.traverse_util
from matplotlib.figure import Figure

from experiments.reports.style import COLOURS
from lcn_jax.errors import UsageError
from lcn_jax.training import checkpoint, metrics
from lcn_jax.training.measures import evaluated_split

Run = tuple[dict[str, Any], dict[str, Any]]
NOT_COMPARED = ('seed', *checkpoint.MAY_CHANGE_ON_RESUME)


@dataclasses.dataclass(frozen=True)
class Row:
    """The runs of one config: the values in which it differs, and the accuracies in percent."""

    values: tuple[str, ...]
    accuracies: list[float]
    deviation: float | None  # of the weights, mean over the runs
    seconds: float

    @property
    def mean(self) -> float:
        return statistics.mean(self.accuracies)

    @property
    def spread(self) -> float | None:
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """fields: those in which configs differ. rows: one for each config, best accuracy first."""

    fields: list[str]
    rows: list[Row]
    splits: str  # what the runs were evaluated on


def workdirs(patterns: Sequence[str]) -> list[str]:
    """The folders that match the patterns; UsageError if there is none."""
    found = sorted({path for pattern in patterns for path in glob.glob(pattern)})
    if not found:
        raise UsageError(f'--workdirs={",".join(patterns)} matches no folder.')
    return found


def read(patterns: Sequence[str]) -> list[Run]:
    """The runs in the folders that match the patterns; UsageError if there is none."""
    return [read_run(workdir) for workdir in workdirs(patterns)]


def read_records(workdir: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The fields to compare, by their names with dots, and the records of a run.

    Raises:
      UsageError: the folder holds no run.
    """
    values = flax.traverse_util.flatten_dict(checkpoint.read_config(workdir).to_dict(), sep='.')
    fields = {name: value for name, value in values.items() if name not in NOT_COMPARED}
    return fields, metrics.read(os.path.join(workdir, 'metrics.jsonl'))


def read_run(workdir: str) -> Run:
    """The fields to compare, by their names with dots, and the last record with its 'split'.

    Raises:
      UsageError: the folder holds no run, or one that is not finished.
    """
    fields, records = read_records(workdir)
    split = evaluated_split(checkpoint.read_config(workdir))
    if not records or records[-1]['epoch'] < fields['epochs']:
        raise UsageError(f'the run in {workdir} is not finished: train it to its end first.')
    return fields, records[-1] | {'split': split}


def compare(runs: list[Run]) -> Comparison:
    by_config = defaultdict(list)
    for config, record in runs:
        by_config[json.dumps(config, sort_keys=True)].append(record)
    configs = {key: json.loads(key) for key in by_config}
    fields = differing(list(configs.values()))
    rows = []
    for key, records in by_config.items():
        deviations = [metrics.awake(record, 'weight_deviation') for record in records]
        rows.append(
            Row(
                values=tuple(str(configs[key].get(name, '')) for name in fields),
                accuracies=[100 * record[f'{record["split"]}_top1'] for record in records],
                deviation=None if None in deviations else statistics.mean(deviations),
                seconds=statistics.mean(record['seconds'] for record in records),
            )
        )
    splits = '/'.join(sorted({record['split'] for _, record in runs}))
    return Comparison(fields, sorted(rows, key=lambda row: -row.mean), splits)


def differing(configs: list[dict[str, Any]]) -> list[str]:
    """The fields that do not have the same value in all configs."""
    names = sorted({name for config in configs for name in config})
    return [name for name in names if len({json.dumps(c.get(name)) for c in configs}) > 1]


def markdown(comparison: Comparison) -> str:
    accuracy = f'{comparison.splits} top-1 %'
    lines = [
        f'| {" | ".join([*comparison.fields, accuracy, "n", "weight deviation", "s / run"])} |',
        '|' + '---|' * len(comparison.fields) + '---:|' * 4,
    ]
    for row in comparison.rows:
        spread = '' if row.spread is None else f' ± {row.spread:.1f}'
        deviation = '' if row.deviation is None else f'{row.deviation:.2g}'
        n, seconds = str(len(row.accuracies)), f'{row.seconds:.0f}'
        cells = [*row.values, f'{row.mean:.1f}{spread}', n, deviation, seconds]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def plot(comparison: Comparison) -> Figure:
    """A point for each config, with the standard deviation over its runs."""
    figure = Figure(figsize=(8, 1.2 + 0.24 * len(comparison.rows)), layout='constrained')
    axes = figure.subplots()
    for place, row in enumerate(comparison.rows):
        axes.errorbar(row.mean, place, xerr=row.spread, fmt='o', color=COLOURS['lc'], capsize=3)
    labels = [label(comparison.fields, row.values) for row in comparison.rows]
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(f'{comparison.splits} top-1 accuracy (%)')
    axes.grid(axis='x', alpha=0.3)
    return figure


def label(fields: Sequence[str], values: Sequence[str]) -> str:
    """Such as 'every 10, full_step': the last names of fields, with values but for set flags."""
    named = {field.rpartition('.')[2]: value for field, value in zip(fields, values)}
    return ', '.join(
        name if value == 'True' else f'{name} {value}'
        for name, value in named.items()
        if value not in ('False', '')
    )
