"""The picture of networks: scores by depth, and differences of the best blocks to the first."""

import itertools
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib import color_sequences
from matplotlib.figure import Figure

from experiments.reports.rows import ROWS, label_of

OTHERS = color_sequences['Dark2'][::-1]  # of networks that are no rows
MARKERS, DASHES = 'os^D', ('-', '--', ':', '-.')  # of networks that have the same colour
BARS = {False: '95 % interval over neurons (one seed)', True: 'standard deviation over seeds'}


def plot(regions: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A line of panels for each region; regions and networks that cannot be scored are left out.

    regions: as in brain_score.json.
    """
    regions = {name: region for name, region in regions.items() if region.get('networks')}
    networks = dict.fromkeys(name for region in regions.values() for name in region['networks'])
    looks = _looks(networks)
    compares = len(networks) > 1
    widths = (6, 4)[: 1 + compares]
    figure = Figure(figsize=(sum(widths), 4.4 * len(regions)), layout='constrained')
    panels = figure.subplots(len(regions), len(widths), squeeze=False, width_ratios=widths)
    drawn = {}
    for (by_depth, *beside), (name, region) in zip(panels, regions.items()):
        by_depth.set_title(f'{name}, {region["neurons"]} neurons')
        _draw_depths(by_depth, region, looks)
        for axes in beside:
            _draw_differences(axes, region['networks'], looks)
        lines, labels = by_depth.get_legend_handles_labels()
        drawn |= dict(zip(labels, lines))
    ncols = 1 + len(widths)
    figure.legend(drawn.values(), drawn, loc='outside lower center', ncols=ncols, frameon=False)
    return figure


def _looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The colour of each network, and marker and dashes that tell those of one colour apart."""
    others, drawn, looks = itertools.cycle(OTHERS), Counter(), {}
    for name in names:
        colour = ROWS[name].colour if name in ROWS else next(others)
        again = drawn[colour] % len(MARKERS)
        looks[name] = {'color': colour, 'marker': MARKERS[again], 'ls': DASHES[again]}
        drawn[colour] += 1
    return looks


def _draw_depths(axes, region, looks) -> None:
    """A line for each network, √ceiling dashed.

    Where networks call their layers differently, all names are below the axis. Layers that cannot
    be scored for every seed are left out.
    """
    best = np.sqrt([region['ceiling'], *region['ceiling_interval']])  # r² / ceiling is 1 there
    axes.axhline(best[0], color='0.3', ls='--', lw=1, label='√ceiling, the best possible')
    axes.axhspan(*best[1:], color='0.5', alpha=0.15, lw=0)
    layers = {
        name: [region['runs'][run]['layers'] for run in network['runs'].values()]
        for name, network in region['networks'].items()
    }
    step = min(0.12, 0.7 / len(layers))  # to the side, so that bars do not overlap
    for number, (name, by_seed) in enumerate(layers.items()):
        scores, bars = _scores_and_bars(by_seed)
        aside = step * (number - (len(layers) - 1) / 2)
        axes.errorbar(
            np.arange(len(scores)) + aside, scores, bars, label=label_of(name),
            markersize=4, capsize=2, lw=1.5, elinewidth=1, **looks[name],
        )  # fmt: skip
    depths = itertools.zip_longest(*(first for first, *_ in layers.values()))
    labels = ['\nor '.join(dict.fromkeys(filter(None, names))) for names in depths]
    axes.set_xticks(range(len(labels)), [label.replace('_', '\n') for label in labels])
    axes.tick_params(axis='x', labelsize='small')
    bars = dict.fromkeys(BARS[len(by_seed) > 1] for by_seed in layers.values())
    axes.set(xlabel=f'bars: {" or ".join(bars)}', ylabel='correlation with held-out responses')
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.grid(axis='y', alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)


def _scores_and_bars(by_seed) -> tuple[np.ndarray, np.ndarray]:
    """Means over seeds of the scores of each layer, and what their bars are below and above."""
    scores = np.array([[of.get('score', np.nan) for of in layers.values()] for layers in by_seed])
    mean = scores.mean(0)
    if len(by_seed) > 1:
        return mean, np.tile(scores.std(0, ddof=1), (2, 1))
    bounds = [of.get('interval', [np.nan] * 2) for of in by_seed[0].values()]
    low, high = np.transpose(bounds)
    return mean, np.stack([mean - low, high - mean])


def _draw_differences(axes, networks, looks) -> None:
    """Two points for each network: with an interval over seeds, and with one over neurons."""
    first, *others = networks
    compared = [name for name in others if networks[name]['difference']]
    axes.set_visible(bool(compared))
    style = dict(markersize=5, capsize=2, lw=1.5)
    for place, name in enumerate(compared):
        colour, marker = looks[name]['color'], looks[name]['marker']
        difference = networks[name]['difference']
        if difference['half_width'] is not None:
            axes.errorbar(
                difference['mean'], place - 0.12, xerr=difference['half_width'],
                color=colour, marker=marker, **style,
            )  # fmt: skip
        of_neurons = difference['over_neurons']
        middle, (low, high) = of_neurons['difference'], of_neurons['difference_interval']
        axes.errorbar(
            middle, place + 0.12, xerr=[[middle - low], [high - middle]],
            color=colour, marker=marker, mfc='white', **style,
        )  # fmt: skip
    axes.axvline(0, color='0.3', lw=1)
    labels = [textwrap.fill(label_of(name), 18) for name in compared]
    axes.set_yticks(range(len(compared)), labels)
    axes.set_ylim(max(1, len(compared)) - 0.5, -0.5)
    axes.set_title(f'best block, difference to {label_of(first)}')
    axes.set_xlabel('95 % interval over seeds (filled)\nor over neurons (open)')
    axes.locator_params(axis='x', nbins=5)
    axes.grid(axis='x', alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
