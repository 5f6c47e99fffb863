"""The records of runs as curves: a line for each config, a band over its seeds."""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.reports import comparison
from lcn_jax.errors import UsageError

PANELS = {
    'training loss (nats)': ('train_loss',),
    'accuracy': ('test_top1', 'validation_top1'),
    # Two points at a step that ends in a sleep: the flank of the saw-tooth.
    'weight deviation': ('weight_deviation_before_sleep', 'weight_deviation'),
}

Records = list[dict[str, Any]]


def read(patterns: Sequence[str]) -> dict[str, list[Records]]:
    """The records of the seeds of each config, by a label; UsageError if there are no runs."""
    by_config: dict[str, list[Records]] = defaultdict(list)
    for workdir in comparison.workdirs(patterns):
        fields, records = comparison.read_records(workdir)
        if not records:
            raise UsageError(f'{workdir} has no records yet.')
        by_config[json.dumps(fields, sort_keys=True)].append(records)
    configs = [json.loads(key) for key in by_config]
    return dict(zip(comparison.names(configs), by_config.values()))


def points(records: Records, names: Sequence[str]) -> list[tuple[int, float]]:
    """(step, value) of the records that have one of the fields, in the order of the names."""
    return [
        (record['step'], record[name])
        for record in records
        for name in names
        if record.get(name) is not None
    ]


def band(seeds: list[list[tuple[int, float]]]) -> list[tuple[int, float, float, float]]:
    """(step, mean, lowest, highest) of the points that all seeds have."""
    together = []
    for at_step in zip(*seeds):
        values = [value for _, value in at_step]
        together.append((at_step[0][0], sum(values) / len(values), min(values), max(values)))
    return together


def draw(runs: dict[str, list[Records]]) -> Figure:
    """A panel for each entry of PANELS that some run has."""
    shown = {
        title: names
        for title, names in PANELS.items()
        if any(points(records, names) for seeds in runs.values() for records in seeds)
    }
    figure = Figure(figsize=(4.6 * len(shown), 3.8), layout='constrained')
    for axes, (title, names) in zip(
        figure.subplots(1, len(shown), squeeze=False)[0], shown.items()
    ):
        for label, seeds in runs.items():
            _draw_band(axes, band([points(records, names) for records in seeds]), label)
        axes.set(xlabel='step', title=title)
        axes.grid(alpha=0.3)
    if len(runs) > 1:
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), loc='outside lower center', frameon=False
        )
    return figure


def _draw_band(axes: Axes, found: list[tuple[int, float, float, float]], label: str) -> None:
    steps, means, lowest, highest = zip(*found) if found else ((), (), (), ())
    (line,) = axes.plot(steps, means, label=label, linewidth=1.2)
    axes.fill_between(steps, lowest, highest, color=line.get_color(), alpha=0.2, linewidth=0)
