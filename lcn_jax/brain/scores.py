"""Scores of layers against the neurons of one region, with intervals over neurons."""

import numpy as np

from lcn_jax.brain import assembly, predictivity, rdm
from lcn_jax.brain.predictivity import aggregate, bootstrap_interval
from lcn_jax.errors import UsageError


class Scorer:
    """Scores activations against the neurons of a region.

    whole: the numbers that do not depend on a network; ceiling: of the scores; chosen_on,
    reported_on: indices of the halves of the images on which a layer is chosen and reported.
    """

    def __init__(self, responses: np.ndarray, groups: np.ndarray | None):
        """responses: (S, N, R), NaN if missing; groups: (S,) categories of the images, or None.

        UsageError if a response has fewer than two repetitions, or there are too few images.
        """
        repetitions = np.moveaxis(assembly.complete(responses), -1, 0)
        self._rdms = np.stack([rdm.rdm(repetition) for repetition in repetitions])
        self._means, self._groups = predictivity.mean(responses), groups
        ((self.chosen_on, self.reported_on),) = predictivity.splits(len(responses), groups, 1, 0.5)
        reliabilities = predictivity.split_half_reliabilities(responses)
        self.ceiling = float(aggregate(reliabilities))
        self.whole = {
            **dict(zip(('images', 'neurons', 'repetitions'), responses.shape)),
            'ceiling': self.ceiling,
            'ceiling_interval': bootstrap_interval(aggregate, reliabilities),
            'rdm_noise_ceiling': rdm.noise_ceiling(self._rdms),
        }

    def layer(self, activations: np.ndarray) -> dict:
        """The scores of a layer (S, ...) over all images, and `chosen_by`, that on one half.

        UsageError if the layer cannot be scored.
        """
        scores = self.scores(self.correlations(activations, slice(None)))
        on_half = aggregate(self.correlations(activations, self.chosen_on))
        if not np.isfinite([scores['score'], on_half]).all():
            raise UsageError('the predictions or all neurons are constant in a split.')
        similarity = rdm.similarity(rdm.rdm(activations), self._rdms)
        return scores | {'rdm': similarity, 'chosen_by': float(on_half)}

    def correlations(self, activations: np.ndarray, images: np.ndarray | slice) -> np.ndarray:
        """(SPLITS, N) for some of the images; errors as `predictivity.prediction_correlations`."""
        groups = None if self._groups is None else self._groups[images]
        return predictivity.prediction_correlations(
            activations[images], self._means[images], groups
        )

    def scores(self, correlations: np.ndarray) -> dict:
        """The aggregate of correlations (SPLITS, N), its interval, and both ceiled scores."""
        score = float(aggregate(correlations))
        interval = bootstrap_interval(aggregate, correlations)
        return {'score': score, 'interval': interval} | predictivity.ceiled(score, self.ceiling)


def difference(first: np.ndarray, other: np.ndarray) -> dict:
    """The aggregate of `other` minus that of `first`, both (SPLITS, N) of the same neurons."""

    def statistic(first, other):
        return aggregate(other) - aggregate(first)

    return {
        'difference': float(statistic(first, other)),
        'difference_interval': bootstrap_interval(statistic, first, other),
    }
