"""Scores of runs against neurons, block by block: the comparison, and what it prints."""

import numpy as np

from experiments.reports import brain_networks
from experiments.reports.style import bounds
from lcn_jax.brain import features
from lcn_jax.brain.assembly import Assembly
from lcn_jax.brain.scores import Scorer, difference
from lcn_jax.errors import UsageError
from lcn_jax.trained.load import Trained

HEADER = '{:<36}  score     95 % interval   r²/c (r/c)²'


def compare_regions(neurons: Assembly, runs: dict[str, Trained], images: list) -> dict[str, dict]:
    """`compare` for each region; {'error': reason} for one that cannot be scored."""
    regions = {}
    for name in map(str, np.unique(neurons.regions)):
        try:
            scorer = Scorer(neurons.region(name), neurons.groups)
            regions[name] = compare(scorer, runs, images, name)
        except UsageError as e:
            regions[name] = {'error': str(e)}
            print(f'{name} is not scored: {e}\n')
    return regions


def compare(scorer: Scorer, runs: dict[str, Trained], images: list, name: str) -> dict:
    """Scores all blocks of all runs, printing them, and compares the best block of each.

    Returns:
      `scorer.whole`, 'runs', and 'networks' as of `brain_networks.compare`. Each run has 'step',
      'layers' with the scores of each block, and 'best': the block chosen on one half of the
      images, and its scores on the other half. A block that cannot be scored has only 'error', the
      reason. A run without a block that can be scored has 'error' instead of 'best'.
    """
    whole = scorer.whole
    print(
        f'{name}: {whole["neurons"]} neurons, {whole["images"]} images, {whole["repetitions"]} '
        f'repetitions; ceiling {scorer.ceiling:.3f} {bounds(whole["ceiling_interval"])}, '
        f'that of the RDM {bounds(whole["rdm_noise_ceiling"])}'
    )
    scores, correlations = {}, {}
    for label, run in runs.items():
        print(f'\n{HEADER.format(label)} {"RDM":>6}')
        scores[label] = {'step': run.step}
        try:
            blocks = features.blocks(run)
            if not blocks:
                raise UsageError('its model sows no activations: docs/models.md explains how to.')
            activations = features.extract(run, images, blocks)
            scores[label]['layers'] = layers = _layers(scorer, activations)
            best, correlations[label] = _best(scorer, activations, layers)
            scores[label]['best'] = {'layer': best} | scorer.scores(correlations[label])
        except UsageError as e:
            scores[label]['error'] = str(e)
            print(f'{label} is not scored: {e}')
    if correlations:
        _compare_best(scores, correlations)
    print()
    networks = brain_networks.compare(brain_networks.group(runs), correlations)
    return whole | {'runs': scores, 'networks': networks}


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
    """Prints the best layers, and adds their differences to that of the first run."""
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
