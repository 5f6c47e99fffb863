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
    """Mean Spearman correlation of a matrix (P,) with M others (M, P).

    The others are of different animals, sessions or repetitions.
    """
    ranks = stats.rankdata([model, *measured], axis=-1, nan_policy='propagate')
    return float(np.corrcoef(ranks)[0, 1:].mean())


def noise_ceiling(measured: np.ndarray) -> tuple[float, float]:
    """Bounds (lower, upper) of the `similarity` of the best model with M >= 2 matrices (M, P).

    The mean of their ranks reaches the upper bound, which no model can exceed. For the lower bound,
    each matrix is compared with the mean of the others. ValueError if there are fewer than two.
    """
    if len(measured) < 2:
        raise ValueError(f'a noise ceiling needs two matrices or more, not {len(measured)}.')
    ranks = stats.rankdata(measured, axis=-1, nan_policy='propagate')
    ranks = (ranks - ranks.mean(-1, keepdims=True)) / ranks.std(-1, keepdims=True)
    total = ranks.sum(0)
    lower = np.mean([np.corrcoef(own, total - own)[0, 1] for own in ranks])
    return float(lower), float(np.corrcoef([total, *ranks])[0, 1:].mean())
