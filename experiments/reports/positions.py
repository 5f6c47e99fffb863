"""Accuracy against how far objects move, and against the number of training images."""

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments.reports.records import Records, at
from experiments.reports.style import COLOURS, cell
from experiments.reports.table import difference_text, paired

KINDS = {
    'conv': ('conv', COLOURS['conv']),
    'lc': ('LC', COLOURS['lc']),
    'lc_translations': ('LC, translations', COLOURS['translations']),
    'lc_mean_joined': ('LC, ws(10), joined pools', COLOURS['mean_joined']),
}
TITLES = {'digits': 'Digits, 8×8', 'fashion': 'Fashion-MNIST, 14×14'}
AXES = {'reach': 'places vary by (pixels)', 'images': 'training images'}


def accuracies(records: Records, **point: Any) -> dict[int, float]:
    """Test accuracy in percent by seed, of the records at a point."""
    return {record['point']['seed']: 100 * record['test_top1'] for record in at(records, **point)}


def panels(records: Records) -> list[tuple[str, str, list[tuple[int, Records]]]]:
    """(task, axis, [(value, records there)]) for each axis along which the records of a task vary.

    Along an axis, the other one stays where most records are.
    """
    found = []
    for task in TITLES:
        mine = [record for record in records if record['point']['task'] == task]
        for axis, other in (('reach', 'images'), ('images', 'reach')):
            if not mine:
                continue
            fixed = statistics.mode(record['point'][other] for record in mine)
            there = [record for record in mine if record['point'][other] == fixed]
            values = sorted({record['point'][axis] for record in there})
            of_value = [
                (value, [record for record in there if record['point'][axis] == value])
                for value in values
            ]
            if len(values) > 1:
                found.append((task, axis, of_value))
    return found


def markdown(records: Records) -> str:
    """A table for each panel: mean ± standard deviation, and the differences of LC to conv."""
    parts = []
    for task, axis, of_value in panels(records):
        labels = [label for label, _ in KINDS.values()]
        parts.append(f'**{TITLES[task]}: {AXES[axis]}**\n')
        parts.append(f'| | {" | ".join(labels)} | LC − conv | joined − conv |')
        parts.append('|---|' + '---:|' * (len(labels) + 2))
        for value, there in of_value:
            by_kind = {kind: accuracies(there, kind=kind) for kind in KINDS}
            cells = [cell(list(by_seed.values())) for by_seed in by_kind.values()]
            cells += [
                difference_text(paired(by_kind[kind], by_kind['conv']))
                for kind in ('lc', 'lc_mean_joined')
            ]
            parts.append(f'| {value:,} | {" | ".join(cells)} |')
        parts.append('')
    return '\n'.join(parts)


def draw(records: Records) -> Figure:
    """A panel for each table: means, and a dot for each network."""
    shown = panels(records)
    rows = max(1, -(-len(shown) // 2))
    figure = Figure(figsize=(10, 3.7 * rows), layout='constrained')
    figure.subplots(rows, 2)
    for axes, (task, axis, of_value) in zip(figure.axes, shown):
        at = [value for value, _ in of_value]
        for kind, (label, colour) in KINDS.items():
            seeds = [list(accuracies(there, kind=kind).values()) for _, there in of_value]
            axes.plot(at, [_mean(values) for values in seeds], color=colour, label=label)
            for value, values in zip(at, seeds):
                axes.plot([value] * len(values), values, '.', color=colour, alpha=0.6)
        axes.set(title=TITLES[task], xlabel=AXES[axis], ylabel='test accuracy (%)')
        if axis == 'images':
            axes.set_xscale('log')
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks(at, [f'{value:,}' for value in at])
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    for axes in figure.axes[len(shown) :]:
        axes.set_axis_off()
    return figure


def _mean(values: Sequence[float]) -> float:
    return statistics.mean(values) if values else float('nan')
