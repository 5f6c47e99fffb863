"""Accuracy and weight deviation against the patterns that neurons see for each image."""

import statistics
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments.reports.records import Records, at
from experiments.reports.style import COLOURS, cell

OPTIMIZERS = {'adamw': 'AdamW', 'sgd': 'SGD'}
MOMENTA = {
    'adamw': ('own', 'equalised', 'shared'),
    'sgd': ('own', 'equalised', 'none', 'shared'),
}
LABELS = {
    'own': 'momentum: own',
    'equalised': 'by the same patterns',
    'none': 'no momentum',
    'shared': 'averaged at no cost',
}
SHADES = {
    'own': COLOURS['lc'],
    'equalised': COLOURS['hebbian_joined'],
    'none': COLOURS['translations'],
    'shared': COLOURS['mean_joined'],
}
LINES = {'joined': '-', 'tiled': '--'}


def accuracies(records: Records) -> list[float]:
    return [100 * record['test_top1'] for record in records]


def markdown(records: Records) -> str:
    """Two tables of mean ± standard deviation: the networks beside, and those that see patterns."""
    batch = records[0]['config']['batch_size']
    lines = ['| | test accuracy, % | weight deviation | n |', '|---|---:|---:|---:|']
    for name in _values(records, 'reference'):
        there = at(records, reference=name)
        deviation = _deviation(there)
        lines.append(f'| {name} | {cell(accuracies(there))} | {deviation} | {len(there)} |')
    for optimizer, name in OPTIMIZERS.items():
        for pools in _values(records, 'pools'):
            mine = at(records, optimizer=optimizer, pools=pools)
            if not mine:
                continue
            kinds = MOMENTA[optimizer]
            lines += ['', f'**{name}, {pools} pools**, patterns in each step of {batch} images', '']
            lines.append(f'| patterns | {" | ".join(LABELS[kind] for kind in kinds)} |')
            lines.append('|---|' + '---:|' * len(kinds))
            for patterns in _values(mine, 'patterns'):
                groups = [at(mine, patterns=patterns, momentum=kind) for kind in kinds]
                cells = [f'{cell(accuracies(g))} ({_deviation(g)})' if g else '' for g in groups]
                lines.append(f'| {patterns} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def _deviation(records: Records) -> str:
    values = [record['weight_deviation'] for record in records]
    return '' if None in values or not values else f'{statistics.mean(values):.2g}'


def _values(records: Records, name: str) -> list[Any]:
    """The values of a part of the points, in the order in which they come."""
    return list(dict.fromkeys(r['point'][name] for r in records if name in r['point']))


def draw(records: Records) -> Figure:
    """A panel for each optimizer: means, dots for networks, and lines where those beside are."""
    batch = records[0]['config']['batch_size']
    figure = Figure(figsize=(10.5, 4.4), layout='constrained')
    for axes, (optimizer, name) in zip(figure.subplots(1, 2, sharey=True), OPTIMIZERS.items()):
        mine = at(records, optimizer=optimizer)
        ticks = _values(mine, 'patterns')
        for pools in _values(mine, 'pools'):
            for kind in MOMENTA[optimizer]:
                there = at(mine, pools=pools, momentum=kind)
                counts = _values(there, 'patterns')
                groups = [accuracies(at(there, patterns=count)) for count in counts]
                label = LABELS[kind] if pools == 'joined' else None
                colour = SHADES[kind]
                means = [statistics.mean(values) for values in groups]
                axes.plot(counts, means, LINES[pools], color=colour, label=label)
                for count, values in zip(counts, groups):
                    axes.plot([count] * len(values), values, '.', color=colour, alpha=0.6)
        for reference in _values(mine, 'reference'):
            if 'ws' not in reference:
                level = statistics.mean(accuracies(at(mine, reference=reference)))
                axes.axhline(level, color=COLOURS['conv'], linewidth=1, linestyle=':')
                of_axes = axes.get_yaxis_transform()
                axes.text(0.2, level, reference, va='bottom', transform=of_axes)
        axes.set(xlabel=f'patterns in a step of {batch} images', title=name, xscale='log')
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[-1].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc='outside lower center', ncols=len(labels) or 1, frameon=False
    )
    figure.axes[0].set_ylabel('test accuracy (%); dashed: tiled pools')
    return figure
