"""Scores of layers against the neurons of one region, with intervals over neurons."""

import numpy as np

from lcn_jax.brain import assembly, predictivity, rdm
from lcn_jax.errors import UsageError


class Scorer:
    """Scores activations against the neurons of a region.

    whole: the numbers that do not depend on a network; ceiling: of the scores; chosen_on,
    reported_on: indices of the halves of the images on which a layer is chosen and reported.
    """

    def __init__(self, responses: np.ndarray, groups: np.ndarray | None):
        """responses: (S, N, R), NaN if missing; groups: (S,) categories of the images, or None.

        Raises:
          UsageError: a response has fewer than two repetitions, or there are too few images.
        """
        repetitions = np.moveaxis(assembly.complete(responses), -1, 0)
        self._rdms = np.stack([rdm.rdm(repetition) for repetition in repetitions])
        self._means, self._groups = predictivity.mean(responses), groups
        self.chosen_on, self.reported_on = predictivity.halves(len(responses), groups)
        reliabilities = predictivity.split_half_reliabilities(responses)
        self.ceiling = float(predictivity.aggregate(reliabilities))
        self.whole = {
            'images': len(responses),
            'neurons': responses.shape[1],
            'repetitions': responses.shape[2],
            'ceiling': self.ceiling,
            'ceiling_interval': interval(reliabilities),
            'rdm_noise_ceiling': rdm.noise_ceiling(self._rdms),
        }

    def layer(self, activations: np.ndarray) -> dict:
        """The scores of a layer (S, ...) over all images, and `chosen_by`, that on one half.

        Raises:
          UsageError: the layer cannot be scored.
        """
        scores = self.scores(self.correlations(activations, slice(None)))
        on_half = predictivity.aggregate(self.correlations(activations, self.chosen_on))
        if not np.isfinite([scores['score'], on_half]).all():
            raise UsageError('the predictions or all neurons are constant in a split.')
        return scores | {
            'rdm': rdm.similarity(rdm.rdm(activations), self._rdms),
            'chosen_by': float(on_half),
        }

    def correlations(self, activations: np.ndarray, images: np.ndarray | slice) -> np.ndarray:
        """(SPLITS, N) for some of the images; errors as `predictivity.prediction_correlations`."""
        groups = None if self._groups is None else self._groups[images]
        return predictivity.prediction_correlations(
            activations[images], self._means[images], groups
        )

    def scores(self, correlations: np.ndarray) -> dict:
        """The aggregate of correlations (SPLITS, N), its interval, and both ceiled scores."""
        score = float(predictivity.aggregate(correlations))
        return {
            'score': score,
            'interval': interval(correlations),
            'ceiled_since_2026': predictivity.ceiled_since_2026(score, self.ceiling),
            'ceiled_until_2026': predictivity.ceiled_until_2026(score, self.ceiling),
        }


def interval(values: np.ndarray) -> tuple[float, float]:
    """The bootstrap interval of the aggregate of values (SPLITS, N)."""
    return predictivity.bootstrap_interval(
        lambda neurons: predictivity.aggregate(values[:, neurons]), values.shape[1]
    )


def difference(first: np.ndarray, other: np.ndarray) -> dict:
    """The aggregate of `other` minus that of `first`, both (SPLITS, N) of the same neurons."""

    def statistic(neurons):
        return predictivity.aggregate(other[:, neurons]) - predictivity.aggregate(first[:, neurons])

    neurons = np.arange(first.shape[1])
    return {
        'difference': float(statistic(neurons)),
        'difference_interval': predictivity.bootstrap_interval(statistic, len(neurons)),
    }
