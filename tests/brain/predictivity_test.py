"""Predictivity and ceilings, against theory and by hand.

LCN_NEURAL_DIR names a folder with v4_210325.npz and v4_210325_images.zip, a session of macaque V4
(Cowley, Stan, Pillow and Smith, 2023), for which numbers are known that Brain-Score's code gave.
"""

import os
import pathlib

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from tiny_networks import noisy

from lcn_jax.brain import assembly, predictivity, scores, stimuli
from lcn_jax.data.builders import encoded
from lcn_jax.errors import UsageError

NEURAL_DIR = os.environ.get('LCN_NEURAL_DIR')
CEILED = {'ceiled_since_2026': 0.0592273, 'ceiled_until_2026': 0.0812629}
rng = np.random.default_rng


def pls_by_the_book(x, y, groups):
    """Brain-Score's metric with all features, written as in its documentation."""
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.model_selection import StratifiedShuffleSplit

    medians = []
    split = StratifiedShuffleSplit(10, train_size=0.9, random_state=1)
    for fit, test in split.split(x, groups):
        predicted = PLSRegression(25, scale=False).fit(x[fit], y[fit]).predict(x[test])
        rs = [stats.pearsonr(predicted[:, i], y[test, i])[0] for i in range(y.shape[1])]
        medians.append(np.median(rs))
    return np.mean(medians)


class TestPredictivity:
    def test_fewer_coordinates_give_the_same_predictions(self):
        """All predictions from more features than images stay the same, up to rounding.

        Power iterations stop at a change of 1e-6, which rotating the coordinates leaves as it is.
        """
        from sklearn.cross_decomposition import PLSRegression

        x = (rng(0).normal(size=(100, 60)) @ rng(1).normal(size=(60, 1_200))).astype(np.float32)
        x = x + rng(2).normal(size=x.shape).astype(np.float32) + 5
        y = rng(3).normal(size=(100, 5)) + x[:, :5]
        groups = np.arange(100) % 4
        kept = predictivity.coordinates(x)
        assert kept.shape == (100, 100)
        np.testing.assert_allclose(
            np.linalg.norm(kept[:50] - kept[50:], axis=1), np.linalg.norm(x[:50] - x[50:], axis=1),
            rtol=1e-6,  # single precision
        )  # fmt: skip
        wide = np.float64(x)  # as the coordinates are
        predicted, expected = (
            PLSRegression(25, scale=False).fit(z[:90], y[:90]).predict(z[90:]) for z in (kept, wide)
        )
        np.testing.assert_allclose(predicted, expected, atol=1e-9)
        found = predictivity.prediction_correlations(x.reshape(100, 12, 10, 10), y, groups)
        assert predictivity.aggregate(found) == pytest.approx(
            pls_by_the_book(wide, y, groups), abs=1e-9
        )

    def test_a_linear_readout_reaches_the_ceiling(self):
        """A neuron with reliability c correlates with its own signal as sqrt(c), so r² / c is 1.

        25 of 540 degrees of freedom are fitted to noise of variance (1 - c) / c: 1.5 % of r² are
        lost. The median over 40 neurons of correlations over 60 images is known to 0.02.
        """
        x = rng(0).normal(size=(600, 25))
        responses = noisy(x @ rng(1).normal(size=(25, 40)), 0.75, repetitions=8, seed=2)
        correlations = predictivity.prediction_correlations(x, responses.mean(-1))
        ceiling = predictivity.aggregate(predictivity.split_half_reliabilities(responses))
        score = predictivity.aggregate(correlations)
        ceiled = predictivity.ceiled(score, ceiling)
        assert ceiled['ceiled_since_2026'] == pytest.approx(1, abs=0.05)
        low, high = predictivity.bootstrap_interval(predictivity.aggregate, correlations)
        assert low < score < high and high - low < 0.05

    def test_without_noise_the_readout_is_found(self):
        x = rng(0).normal(size=(200, 25))
        correlations = predictivity.prediction_correlations(x, x @ rng(1).normal(size=(25, 6)))
        np.testing.assert_allclose(correlations, 1, atol=1e-9)

    def test_noise_scores_nothing(self):
        """A neuron's mean of 10 correlations over 30 images is known to 1 / sqrt(300) = 0.06.

        The median of 50 neurons is known to 0.01, so the interval is 0.04 wide, and its estimate
        not twice as much.
        """
        x, y = rng(0).normal(size=(300, 80)), rng(1).normal(size=(300, 50))
        correlations = predictivity.prediction_correlations(x, y)
        low, high = predictivity.bootstrap_interval(predictivity.aggregate, correlations)
        assert low < 0 < high
        assert high - low < 0.08

    @pytest.mark.parametrize('reliability', [0.2, 0.5, 0.9])
    @pytest.mark.parametrize('repetitions', [2, 6])
    def test_ceiling_is_the_reliability(self, reliability, repetitions):
        """A correlation over 800 images is known to 0.035, the median of 60 to 0.006.

        The correction to all repetitions makes that 0.01 at most.
        """
        signal = rng(3).normal(size=(800, 60))
        responses = noisy(signal, reliability, repetitions, seed=4)
        ceiling = predictivity.aggregate(predictivity.split_half_reliabilities(responses))
        assert ceiling == pytest.approx(reliability, abs=0.02)

    def test_repetitions_that_some_images_lack(self):
        """Means ignore missing repetitions; an image that a half lacks is left out."""
        from sklearn.model_selection import ShuffleSplit

        responses = noisy(rng(3).normal(size=(30, 2)), 0.5, 4, seed=4)
        responses[::3, :, 3] = np.nan
        responses[5, :, 1:] = np.nan
        expected = []
        for halves in ShuffleSplit(10, train_size=0.5, random_state=1).split(range(4)):
            means = np.zeros((2, 29, 2))
            for row, image in enumerate(np.delete(responses, 5, axis=0)):
                for half in (0, 1):
                    there = [r for r in halves[half] if not np.isnan(image[0, r])]
                    means[half, row] = np.mean([image[:, r] for r in there], axis=0)
            r = np.array([stats.pearsonr(*means[:, :, neuron]).statistic for neuron in (0, 1)])
            expected.append(2 * r / (1 + r))
        np.testing.assert_allclose(predictivity.split_half_reliabilities(responses), expected)
        np.testing.assert_array_equal(predictivity.mean(responses)[5], responses[5, :, 0])

    def test_median_over_neurons_then_mean_over_splits(self):
        values = np.array([[0.0, 1.0, 8.0], [3.0, np.nan, 4.0]])
        assert predictivity.aggregate(values) == pytest.approx((1 + 3.5) / 2)

    def test_the_two_formulas(self):
        score, ceiling = 0.2077666997998, 0.7288358490634754
        assert predictivity.ceiled(score, ceiling) == pytest.approx(CEILED, abs=1e-7)

    def test_interval_has_the_width_of_theory(self):
        """A median of n normal values has the standard error sqrt(pi / 2 n).

        It depends on the density at the median, which 400 values estimate to within 30 %.
        """
        values = rng(0).normal(size=(1, 400))
        low, high = predictivity.bootstrap_interval(predictivity.aggregate, values)
        assert high - low == pytest.approx(2 * 1.96 * np.sqrt(np.pi / 800), rel=0.3)

    def test_differences_are_over_the_same_neurons(self):
        """They are exact if all neurons differ by the same, however different the neurons are."""
        values = rng(0).normal(size=(10, 30))
        found = scores.difference(values, values + 0.25)
        assert found['difference'] == pytest.approx(0.25)
        assert found['difference_interval'] == pytest.approx((0.25, 0.25))

    def test_halves_are_stratified(self):
        groups = np.repeat([0, 1, 2], [60, 30, 10])
        for half in predictivity.splits(100, groups, 1, 0.5)[0]:
            assert np.bincount(groups[half]).tolist() == [30, 15, 5]
        assert np.array_equal(
            np.sort(np.concatenate(predictivity.splits(100, groups, 1, 0.5)[0])), np.arange(100)
        )

    @pytest.mark.parametrize(
        'change, message',
        [
            (lambda x: np.repeat(x[:, :20], 2, axis=1), 'only 20 units vary .* over 54 images'),
            (lambda x: np.ones_like(x), 'only 0 units vary'),
            (lambda x: np.where(np.arange(60)[:, None] < 26, x, 0), 'only .* units vary'),
            (lambda x: np.where(np.arange(60)[:, None] == 7, np.inf, x), 'for 1 of 60 images'),
            (lambda x: np.where(np.arange(40) == 7, np.nan, x), 'not finite for 60 of 60'),
        ],
        ids=['copies', 'constant', 'rarely active', 'infinite', 'nan'],
    )
    def test_degenerate_features_are_refused(self, change, message):
        """Features that are active for 26 images are active for fewer in each split."""
        x = rng(0).normal(size=(60, 40))
        with pytest.raises(UsageError, match=message):
            predictivity.prediction_correlations(change(x), rng(1).normal(size=(60, 2)))

    def test_groups_that_cannot_be_split_are_refused(self):
        with pytest.raises(UsageError, match=r'60 images cannot be split: .* only 1 member'):
            predictivity.splits(60, np.arange(60) == 7, 1, 0.5)


@pytest.mark.skipif(NEURAL_DIR is None, reason='LCN_NEURAL_DIR is not set')
def test_golden_numbers():
    """Six digits of the scores that Brain-Score's code gave for pixels and the session of V4."""
    folder = pathlib.Path(NEURAL_DIR)
    neurons = assembly.read(
        str(folder / 'v4_210325.npz'), axes=('neuroids', 'stimuli', 'repetitions')
    )
    responses = neurons.responses[..., :6]
    files = stimuli.read(str(folder / 'v4_210325_images.zip'))
    # Those scores were for images resized by Pillow's default filter, unlike `features.resized`.
    pixels = np.stack([
        np.asarray(Image.fromarray(encoded.decode(file, name)).resize((32, 32))) / 255
        for name, file in files.items()
    ])  # fmt: skip
    ceiling = predictivity.aggregate(predictivity.split_half_reliabilities(responses))
    assert ceiling == pytest.approx(0.7288358490634754, abs=1e-6)
    score = predictivity.aggregate(
        predictivity.prediction_correlations(pixels, responses.mean(-1), np.arange(640) % 8)
    )
    assert score == pytest.approx(0.2077666997998, abs=1e-6)
    assert predictivity.ceiled(score, ceiling) == pytest.approx(CEILED, abs=1e-6)
