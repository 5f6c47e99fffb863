"""Behavioural consistency image by image (i2n), as Brain-Score computes it.

Rajalingham et al. (2018), "Large-scale, high-resolution comparison of the core visual object
recognition behavior of humans, monkeys, and state-of-the-art deep artificial neural networks":
subjects saw an image and told which of two objects had been in it. Compared is, for every image and
every other object that its own was to be told from, how well that went (d'), after taking away what
all images of the two objects have in common.
"""

import warnings

import numpy as np

REPETITIONS = 2  # random halves of the trials
LARGEST = 5.0  # of d' in size
INVERSE_REGULARISATION = 1e-3


def readout(train_features: np.ndarray, objects: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Probabilities of objects by multinomial logistic regression on standardised features.

    Args:
      train_features: (T, ...); objects: (T,) numbers 0, ..., K - 1, each at least once.
      features: (S, ...) of the images in question.

    Returns:
      (S, K) float64.

    Raises:
      ValueError: an object has no training image.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    objects = np.asarray(objects)
    if not np.array_equal(np.unique(objects), np.arange(objects.max() + 1)):
        raise ValueError('objects must be the numbers 0, ..., K - 1, each at least once.')
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=INVERSE_REGULARISATION, solver='newton-cg')
    )
    classifier.fit(train_features.reshape(len(train_features), -1), objects)
    return classifier.predict_proba(features.reshape(len(features), -1))


def i2n(
    probabilities: np.ndarray, objects: np.ndarray, trials: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of a model's d' with those of subjects, and of subjects with each other.

    Args:
      probabilities: (S, K) the model's, of each object for each image.
      objects: (S,) int: the object in each image.
      trials: (T, 3) int: image, the other object that was offered, and the object chosen.

    Returns:
      Correlations and their ceilings, (REPETITIONS,) each, for random halves of the trials.

    Raises:
      ValueError: shapes do not fit together.
    """
    images, others = np.shape(probabilities)
    if np.shape(objects) != (images,) or np.ndim(trials) != 2 or np.shape(trials)[1] != 3:
        raise ValueError(
            f'probabilities {np.shape(probabilities)}, objects {np.shape(objects)} and trials '
            f'{np.shape(trials)} must be (images, objects), (images,) and (trials, 3).'
        )
    objects, trials = np.asarray(objects), np.asarray(trials)
    model = dprimes(confusions(probabilities, objects), objects)
    random = np.random.RandomState(0)
    scores, ceilings = [], []
    for _ in range(REPETITIONS):
        halves = np.split(trials[random.permutation(len(trials))], [len(trials) // 2])
        first, second = (
            dprimes(observed_confusions(half, images, others), objects) for half in halves
        )
        scores.append(_correlation(model, first))
        ceilings.append(_correlation(first, second))
    return np.array(scores), np.array(ceilings)


def ceiled(scores: np.ndarray, ceilings: np.ndarray) -> float:
    """r / sqrt(ceiling), averaged over the halves of the trials."""
    return float(np.mean(scores / np.sqrt(ceilings)))


def confusions(probabilities: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Probability (S, K) to choose another object over the image's own; NaN for its own."""
    own = np.take_along_axis(probabilities, objects[:, None], axis=1)
    rates = probabilities / (probabilities + own)
    np.put_along_axis(rates, objects[:, None], np.nan, axis=1)
    return rates


def observed_confusions(trials: np.ndarray, images: int, objects: int) -> np.ndarray:
    """How often (S, K) another object was chosen of the times it was offered; NaN if never."""
    image, other, chosen = trials.T
    offered, taken = np.zeros((2, images, objects))
    np.add.at(offered, (image, other), 1)
    np.add.at(taken, (image, other), chosen == other)
    return np.divide(taken, offered, out=np.full_like(taken, np.nan), where=offered > 0)


def dprimes(rates: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """d' of each image and other object, less its mean over the images of the same object.

    d' = Z(1 - p) - Z(false alarms) for a rate p of choosing object c in an image of object t, where
    false alarms are the mean rate of choosing t in images of c; between -LARGEST and LARGEST.

    Args:
      rates: (S, K) of choosing each object where another one was; objects: (S,) which.
    """
    from scipy.stats import norm

    with warnings.catch_warnings(), np.errstate(invalid='ignore'):
        warnings.filterwarnings('ignore', 'Mean of empty slice')
        of_object = [objects == k for k in range(rates.shape[1])]
        false_alarms = np.stack([np.nanmean(rates[own], axis=0) for own in of_object])
        # inf - inf is NaN: nothing is known where nobody ever erred, or everybody did.
        d = norm.ppf(1 - rates) - norm.ppf(false_alarms.T[objects])
        d = d.clip(-LARGEST, LARGEST)
        for own in of_object:
            d[own] -= np.nanmean(d[own], axis=0)
    return d


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import pearsonr

    known = ~(np.isnan(a) | np.isnan(b))
    return pearsonr(a[known], b[known]).statistic
