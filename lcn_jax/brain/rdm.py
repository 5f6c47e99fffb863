"""Representational dissimilarity matrices (RDMs) and their similarity.

Kriegeskorte et al. (2008), "Representational similarity analysis"; the noise ceiling is that of
Nili et al. (2014), "A toolbox for representational similarity analysis". A matrix of S images is
stored as the vector of its P = S (S - 1) / 2 pairs.
"""

import numpy as np
from scipy import stats


def rdm(features: np.ndarray) -> np.ndarray:
    """1 - Pearson correlation over the features, for all pairs of images: (S, ...) -> (P,).

    NaN for pairs with an image for which all features are equal.
    """
    features = np.asarray(features, np.float64).reshape(len(features), -1)
    with np.errstate(invalid='ignore', divide='ignore'):
        return 1 - np.corrcoef(features)[np.triu_indices(len(features), 1)]


def similarity(model: np.ndarray, measured: np.ndarray) -> float:
    """Mean Spearman correlation of one matrix (P,) with M others (M, P).

    The others are of different animals, sessions or repetitions.
    """
    ranked, others = _standard_ranks(model[None]), _standard_ranks(measured)
    return float((others @ ranked[0]).mean())


def noise_ceiling(measured: np.ndarray) -> tuple[float, float]:
    """Bounds (lower, upper) of the `similarity` of the best model with M >= 2 matrices (M, P).

    The mean of their ranks reaches the upper bound, which no model can exceed. For the lower bound,
    each matrix is compared with the mean of the others.

    Raises:
      ValueError: there are fewer than two.
    """
    if len(measured) < 2:
        raise ValueError(f'a noise ceiling needs two matrices or more, not {len(measured)}.')
    ranks = _standard_ranks(measured)
    total = ranks.sum(0)

    def mean_correlation(best):
        return float((ranks * best / np.linalg.norm(best, axis=-1, keepdims=True)).sum(-1).mean())

    return mean_correlation(total - ranks), mean_correlation(total[None])


def _standard_ranks(matrices: np.ndarray) -> np.ndarray:
    """(M, P) -> ranks with mean 0 and norm 1: products of two are Spearman correlations."""
    ranks = stats.rankdata(matrices, axis=-1, nan_policy='propagate')
    ranks -= ranks.mean(-1, keepdims=True)
    return ranks / np.linalg.norm(ranks, axis=-1, keepdims=True)
