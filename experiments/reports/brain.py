"""What comes of scoring networks against neurons: numbers, tables and a chart."""

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from lcn_jax.brain import assembly, features, predictivity, rdm

HEADER = '{:<36}  score     95 % interval   r²/c (r/c)²'


class Scorer:
    """Scores features against the neurons of a region.

    means: (S, N) responses; whole: what does not depend on a network; chosen_on, reported_on:
    indices of the halves of the images.
    """

    def __init__(self, responses: np.ndarray, groups: np.ndarray | None):
        """responses: (S, N, R), NaN where there is none."""
        self.means, self.groups = predictivity.mean(responses), groups
        self.chosen_on, self.reported_on = predictivity.halves(len(responses), groups)
        reliabilities = predictivity.split_half_reliabilities(responses)
        self.ceiling = float(predictivity.aggregate(reliabilities))
        repetitions = np.moveaxis(assembly.complete(responses), -1, 0)
        self._rdms = np.stack([rdm.rdm(repetition) for repetition in repetitions])
        self.whole = {
            'images': len(responses),
            'neurons': responses.shape[1],
            'repetitions': responses.shape[2],
            'ceiling': self.ceiling,
            'ceiling_interval': interval(reliabilities),
            'rdm_noise_ceiling': rdm.noise_ceiling(self._rdms),
        }

    def layer(self, responses: np.ndarray) -> dict:
        """The scores of a layer (S, ...) over all images, and the one to choose it by."""
        correlations = self.correlations(responses, slice(None))
        chosen_by = predictivity.aggregate(self.correlations(responses, self.chosen_on))
        return self.scores(correlations) | {
            'rdm': rdm.similarity(rdm.rdm(responses), self._rdms),
            'chosen_by': float(chosen_by),
        }

    def correlations(self, responses: np.ndarray, images) -> np.ndarray:
        """(splits, N) for some of the images."""
        groups = None if self.groups is None else self.groups[images]
        return predictivity.prediction_correlations(responses[images], self.means[images], groups)

    def scores(self, correlations: np.ndarray) -> dict:
        """The aggregate of correlations (splits, N), its interval, and by both ceiled formulas."""
        score = float(predictivity.aggregate(correlations))
        return {
            'score': score,
            'interval': interval(correlations),
            'ceiled_since_2026': predictivity.ceiled_since_2026(score, self.ceiling),
            'ceiled_until_2026': predictivity.ceiled_until_2026(score, self.ceiling),
        }


def interval(values: np.ndarray) -> tuple[float, float]:
    """Of the aggregate of values (splits, N)."""
    return predictivity.bootstrap_interval(
        lambda neurons: predictivity.aggregate(values[:, neurons]), values.shape[1]
    )


def difference(first: np.ndarray, other: np.ndarray) -> dict:
    """What `other` has more than `first`, both (splits, N) of the same neurons."""

    def statistic(neurons):
        return predictivity.aggregate(other[:, neurons]) - predictivity.aggregate(first[:, neurons])

    neurons = np.arange(first.shape[1])
    return {
        'difference': float(statistic(neurons)),
        'difference_interval': predictivity.bootstrap_interval(statistic, len(neurons)),
    }


def compare(scorer: Scorer, networks: dict[str, features.Network], images: list, name: str) -> dict:
    """Scores all blocks of all networks, printing them, and compares the best of each.

    Raises:
      ValueError: a block cannot be scored, for there are too few images or features.
    """
    whole = scorer.whole
    print(
        f'{name}: {whole["neurons"]} neurons, {whole["images"]} images, {whole["repetitions"]} '
        f'repetitions; ceiling {scorer.ceiling:.3f} {bounds(whole["ceiling_interval"])}, '
        f'of RDM {bounds(whole["rdm_noise_ceiling"])}'
    )
    runs, best_correlations = {}, {}
    for label, network in networks.items():
        print(f'\n{HEADER.format(label)} {"RDM":>6}')
        responses = features.extract(network, images, features.blocks(network.model))
        layers = {}
        for layer, values in responses.items():
            try:
                layers[layer] = scores = scorer.layer(values)
            except ValueError as e:
                raise ValueError(f'{layer} of {label}: {e}') from e
            print(f'{row(layer, scores)} {scores["rdm"]:>6.3f}')
        best = max(layers, key=lambda layer: layers[layer]['chosen_by'])
        best_correlations[label] = scorer.correlations(responses[best], scorer.reported_on)
        runs[label] = {
            'step': network.step,
            'layers': layers,
            'best': {'layer': best} | scorer.scores(best_correlations[label]),
        }

    print(f'\n{HEADER.format("best, on the other half")} {"more than the first":>24}')
    first = next(iter(runs))
    for label, run in runs.items():
        best = run['best']
        line = row(f'{label} {best["layer"]}', best)
        if label != first:
            best |= difference(best_correlations[first], best_correlations[label])
            line += f' {best["difference"]:>+7.3f} {bounds(best["difference_interval"]):>16}'
        print(line)
    print()
    return whole | {'runs': runs}


def row(name: str, scores: dict) -> str:
    return (
        f'{name:<36} {scores["score"]:>6.3f} {bounds(scores["interval"]):>17} '
        f'{scores["ceiled_since_2026"]:>6.3f} {scores["ceiled_until_2026"]:>6.3f}'
    )


def bounds(pair: tuple[float, float]) -> str:
    return f'[{pair[0]:.3f}, {pair[1]:.3f}]'


def plot(regions: dict[str, dict]) -> Figure:
    """Scores by depth: a panel for each region, a line for each run, the best possible dashed."""
    figure = Figure(figsize=(8 * len(regions), 4.5), layout='constrained')
    for axes, (name, region) in zip(
        figure.subplots(1, len(regions), squeeze=False)[0], regions.items()
    ):
        best = np.sqrt([region['ceiling'], *region['ceiling_interval']])  # r² / ceiling is 1 there
        axes.axhline(best[0], color='0.3', ls='--', lw=1, label='√ceiling, the best possible')
        axes.axhspan(*best[1:], color='0.5', alpha=0.15, lw=0)
        runs = region['runs']
        axes.set_prop_cycle(color=colormaps['tab20'].colors)
        step = min(0.12, 0.7 / len(runs))  # to the side, or the bars hide each other
        for number, (label, run) in enumerate(runs.items()):
            scores = np.array([layer['score'] for layer in run['layers'].values()])
            low, high = np.array([layer['interval'] for layer in run['layers'].values()]).T
            aside = step * (number - (len(runs) - 1) / 2)
            axes.errorbar(
                np.arange(len(scores)) + aside, scores, [scores - low, high - scores],
                marker='o', markersize=4, capsize=2, lw=1.5, elinewidth=1, label=label,
            )  # fmt: skip
        longest = max((run['layers'] for run in runs.values()), key=len)
        axes.set_xticks(range(len(longest)), [layer.replace('_', '\n') for layer in longest])
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
