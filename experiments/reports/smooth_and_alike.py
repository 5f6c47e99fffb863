"""Accuracy, weights within pools and smoothness of maps against the weight of the penalty."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.reports import sheets
from experiments.reports.records import Records, at
from experiments.reports.style import COLOURS, cell

ALPHAS = (0, 1, 10)
SLEEPS = {
    'none': ('no sleep', COLOURS['lc']),
    'ws(10)': ('ws(10), joined pools', COLOURS['mean_joined']),
}
LAYERS = range(1, 6)  # the sixth has a single position: nothing to share


def accuracy(record: Mapping[str, Any]) -> float:
    return 100 * record['test_top1']


def of_weights(record: Mapping[str, Any]) -> float:
    """The mean cosine between the weights of neighbours, over the layers with several positions."""
    return statistics.mean(record['cosines'][f'conv{layer}'] for layer in LAYERS)


def of_map(name: str) -> Callable[..., float]:
    """The share of neighbours that prefer the same, in percent, and what is expected by chance."""

    def share(record: Mapping[str, Any], which: str = 'neighbours') -> float:
        return 100 * statistics.mean(record[name][f'layer{layer}'][which] for layer in LAYERS)

    return share


MEASURES = {
    'test accuracy, %': accuracy,
    'cosine of neighbours': of_weights,
    'neighbours with the same orientation, %': of_map('orientation'),
    'neighbours with the same class, %': of_map('class'),
}


def markdown(records: Records) -> str:
    """Mean ± standard deviation over seeds, with the share of any two neurons in brackets."""
    lines = [
        f'| α | sleep | {" | ".join(MEASURES)} | weight deviation | n |',
        '|---:|---|' + '---:|' * (len(MEASURES) + 2),
    ]
    for alpha in ALPHAS:
        for sleep, (label, _) in SLEEPS.items():
            there = at(records, alpha=alpha, sleep=sleep)
            if not there:
                continue
            cosine = [of_weights(record) for record in there]
            cells = [cell([accuracy(record) for record in there])]
            cells.append(f'{round(statistics.mean(cosine), 2) + 0:.2f}'.replace('-', '−'))
            for name in ('orientation', 'class'):
                share = of_map(name)
                by_chance = statistics.mean(share(record, 'any') for record in there)
                cells.append(f'{cell([share(record) for record in there])} ({by_chance:.0f})')
            deviation = statistics.mean(record['weight_deviation'] for record in there)
            lines.append(
                f'| {alpha} | {label} | {" | ".join(cells)} | {deviation:.2g} | {len(there)} |'
            )
    return '\n'.join(lines) + '\n'


def draw(records: Records) -> Figure:
    """A panel for each measure: means over seeds, and a dot for each network."""
    figure = Figure(figsize=(12, 3.4), layout='constrained')
    for axes, (title, measure) in zip(figure.subplots(1, len(MEASURES)), MEASURES.items()):
        for sleep, (label, colour) in SLEEPS.items():
            groups = {
                alpha: [measure(record) for record in at(records, alpha=alpha, sleep=sleep)]
                for alpha in ALPHAS
            }
            done = [alpha for alpha, values in groups.items() if values]
            places = [ALPHAS.index(alpha) for alpha in done]
            means = [statistics.mean(groups[alpha]) for alpha in done]
            axes.plot(places, means, color=colour, label=label)
            for place, alpha in zip(places, done):
                axes.plot([place] * len(groups[alpha]), groups[alpha], 'o', color=colour, alpha=0.6)
        axes.set(xlabel='α', title=title)
        axes.title.set_fontsize(9)
        axes.set_xticks(range(len(ALPHAS)), [str(alpha) for alpha in ALPHAS])
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=2, frameon=False)
    return figure


def draw_maps(maps: Mapping[tuple[float, str], Mapping[str, np.ndarray]]) -> Figure:
    """Preferred orientations by (α, sleep): above without sleep, below with it."""
    titles = {
        f'α = {alpha}, {sleep if sleep != "none" else "no sleep"}': maps[alpha, sleep]
        for sleep in SLEEPS
        for alpha in ALPHAS
    }
    preferences, strengths = (
        {title: of[name] for title, of in titles.items()} for name in ('preference', 'strength')
    )
    return sheets.draw(preferences, 'preference', strengths)
