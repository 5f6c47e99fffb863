"""Scores of networks against neurons: the comparison, its table and its chart."""

import itertools

import numpy as np
from matplotlib import color_sequences
from matplotlib.figure import Figure

from lcn_jax.brain import features
from lcn_jax.brain.assembly import Assembly
from lcn_jax.brain.scores import Scorer, difference
from lcn_jax.errors import UsageError
from lcn_jax.trained.load import Trained

HEADER = '{:<36}  score     95 % interval   r²/c (r/c)²'


def compare_regions(
    neurons: Assembly, networks: dict[str, Trained], images: list
) -> dict[str, dict]:
    """`compare` for each region; {'error': reason} for one that cannot be scored."""
    regions = {}
    for name in map(str, np.unique(neurons.regions)):
        try:
            scorer = Scorer(neurons.region(name), neurons.groups)
            regions[name] = compare(scorer, networks, images, name)
        except UsageError as e:
            regions[name] = {'error': str(e)}
            print(f'{name} is not scored: {e}\n')
    return regions


def compare(scorer: Scorer, networks: dict[str, Trained], images: list, name: str) -> dict:
    """Scores all blocks of all networks, printing them, and compares the best block of each.

    Returns:
      `scorer.whole` and 'runs'. For each network these have 'step', 'layers' with the scores of
      each block, and 'best': the block chosen on one half of the images, and its scores on the
      other half. A block that cannot be scored has only 'error', the reason. A network without a
      block that can be scored has 'error' instead of 'best'.
    """
    whole = scorer.whole
    print(
        f'{name}: {whole["neurons"]} neurons, {whole["images"]} images, {whole["repetitions"]} '
        f'repetitions; ceiling {scorer.ceiling:.3f} {bounds(whole["ceiling_interval"])}, '
        f'that of the RDM {bounds(whole["rdm_noise_ceiling"])}'
    )
    runs, best_correlations = {}, {}
    for label, network in networks.items():
        print(f'\n{HEADER.format(label)} {"RDM":>6}')
        runs[label] = {'step': network.step}
        try:
            blocks = features.blocks(network)
            if not blocks:
                raise UsageError('its model sows no activations: docs/models.md explains how to.')
            activations = features.extract(network, images, blocks)
            runs[label]['layers'] = layers = _layers(scorer, activations)
            best, best_correlations[label] = _best(scorer, activations, layers)
            runs[label]['best'] = {'layer': best} | scorer.scores(best_correlations[label])
        except UsageError as e:
            runs[label]['error'] = str(e)
            print(f'{label} is not scored: {e}')
    if best_correlations:
        _compare_best(runs, best_correlations)
    print()
    return whole | {'runs': runs}


def _layers(scorer, activations):
    layers = {}
    for layer, values in activations.items():
        try:
            layers[layer] = scores = scorer.layer(values)
            print(f'{_row(layer, scores)} {scores["rdm"]:>6.3f}')
        except UsageError as e:
            layers[layer] = {'error': str(e)}
            print(f'{layer:<36} not scored: {e}')
    return layers


def _best(scorer, activations, layers) -> tuple[str, np.ndarray]:
    """The layer that scores best on one half of the images, and its correlations on the other."""
    choices = [layer for layer in layers if 'error' not in layers[layer]]
    for layer in sorted(choices, key=lambda layer: layers[layer]['chosen_by'], reverse=True):
        try:
            return layer, scorer.correlations(activations[layer], scorer.reported_on)
        except UsageError as e:  # too few units vary over this half
            layers[layer]['error'] = str(e)
    layer, scores = next(iter(layers.items()))
    raise UsageError(f'none of its layers can be scored; {layer}: {scores["error"]}')


def _compare_best(runs, correlations):
    """Prints the best layers, and adds their differences to that of the first network."""
    first = next(iter(correlations))
    print(f'\n{HEADER.format("best, on the other half")} {f"difference to {first}":>24}')
    for label, own in correlations.items():
        best = runs[label]['best']
        line = _row(f'{label} {best["layer"]}', best)
        if label != first:
            best |= {'reference': first} | difference(correlations[first], own)
            line += f' {best["difference"]:>+7.3f} {bounds(best["difference_interval"]):>16}'
        print(line)


def _row(name: str, scores: dict) -> str:
    return (
        f'{name:<36} {scores["score"]:>6.3f} {bounds(scores["interval"]):>17} '
        f'{scores["ceiled_since_2026"]:>6.3f} {scores["ceiled_until_2026"]:>6.3f}'
    )


def bounds(pair: tuple[float, float]) -> str:
    return f'[{pair[0]:.3f}, {pair[1]:.3f}]'


def plot(regions: dict[str, dict]) -> Figure:
    """Scores by depth: a panel for each region, a line for each run, √ceiling dashed.

    Where networks call their layers differently, all names are below the axis.
    Regions, runs and layers that cannot be scored are left out.
    """
    regions = {name: region for name, region in regions.items() if scored(region)}
    figure = Figure(figsize=(8 * len(regions), 4.5), layout='constrained')
    for axes, (name, region) in zip(
        figure.subplots(1, len(regions), squeeze=False)[0], regions.items()
    ):
        best = np.sqrt([region['ceiling'], *region['ceiling_interval']])  # r² / ceiling is 1 there
        axes.axhline(best[0], color='0.3', ls='--', lw=1, label='√ceiling, the best possible')
        axes.axhspan(*best[1:], color='0.5', alpha=0.15, lw=0)
        runs = scored(region)
        axes.set_prop_cycle(color=color_sequences['tab20'])
        step = min(0.12, 0.7 / len(runs))  # to the side, so that bars do not overlap
        for number, (label, run) in enumerate(runs.items()):
            layers = run['layers'].values()
            scores = np.array([layer.get('score', np.nan) for layer in layers])
            low, high = np.array([layer.get('interval', [np.nan] * 2) for layer in layers]).T
            aside = step * (number - (len(runs) - 1) / 2)
            axes.errorbar(
                np.arange(len(scores)) + aside, scores, [scores - low, high - scores],
                marker='o', markersize=4, capsize=2, lw=1.5, elinewidth=1, label=label,
            )  # fmt: skip
        depths = itertools.zip_longest(*(run['layers'] for run in runs.values()))
        labels = ['\nor '.join(dict.fromkeys(filter(None, names))) for names in depths]
        axes.set_xticks(range(len(labels)), [label.replace('_', '\n') for label in labels])
        axes.tick_params(axis='x', labelsize='small')
        axes.set(
            ylabel='correlation with held-out responses',
            title=f'{name}, {region["neurons"]} neurons',
        )
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.grid(axis='y', alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
        axes.legend(frameon=False, fontsize='small', loc='center left', bbox_to_anchor=(1, 0.5))
    return figure


def scored(region: dict) -> dict[str, dict]:
    """The runs of a region with at least one layer that can be scored."""
    return {label: run for label, run in region.get('runs', {}).items() if 'best' in run}
