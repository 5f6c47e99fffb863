"""Confusions of objects, against theory and by hand."""

import numpy as np
import pytest
from scipy import stats

from lcn_jax.brain import behaviour

rng = np.random.default_rng


def simulate_trials(rates, objects, per_task, seed):
    """(T, 3): subjects who confuse objects at the rates (S, K)."""
    image, other = np.nonzero(~np.isnan(rates))
    image, other = np.repeat(image, per_task), np.repeat(other, per_task)
    errs = rng(seed).uniform(size=len(image)) < rates[image, other]
    return np.stack([image, other, np.where(errs, other, objects[image])], axis=1)


class TestBehaviour:
    objects = np.repeat(np.arange(4), 15)

    def probabilities(self, seed):
        """Some images are hard, each for its own objects."""
        raw = rng(seed).uniform(0.2, 1, (60, 4))
        raw[np.arange(60), self.objects] += 1
        return raw / raw.sum(1, keepdims=True)

    def test_dprime_by_hand(self):
        """Three images, two objects: d' = Z(hits) - Z(false alarms), less the mean of its kind."""
        objects = np.array([0, 0, 1])
        rates = behaviour.confusions(np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), objects)
        np.testing.assert_allclose(rates, [[np.nan, 0.1], [np.nan, 0.4], [0.2, np.nan]])
        z = stats.norm.ppf
        first, second = z(0.9) - z(0.2), z(0.6) - z(0.2)
        mean = (first + second) / 2
        np.testing.assert_allclose(
            behaviour.dprimes(rates, objects),
            [[np.nan, first - mean], [np.nan, second - mean], [0, np.nan]],
        )

    def test_dprime_is_limited(self):
        objects = np.array([0, 0, 1])
        rates = np.array([[np.nan, 0.0], [np.nan, 0.5], [0.5, np.nan]])
        np.testing.assert_allclose(behaviour.dprimes(rates, objects)[:2, 1], [2.5, -2.5])

    def test_observed_confusions_are_of_the_times_offered(self):
        trials = np.array([[0, 1, 1], [0, 1, 0], [0, 1, 0], [0, 1, 0], [1, 2, 2]])
        found = behaviour.observed_confusions(trials, images=2, objects=3)
        np.testing.assert_array_equal(found, [[np.nan, 0.25, np.nan], [np.nan, np.nan, 1]])

    def test_the_subjects_own_model_reaches_the_ceiling_and_another_none(self):
        """180 values of d' are compared: a correlation is known to 0.075."""
        own = self.probabilities(seed=0)
        trials = simulate_trials(behaviour.confusions(own, self.objects), self.objects, 400, seed=1)
        scores, ceilings = behaviour.i2n(own, self.objects, trials)
        assert scores.shape == ceilings.shape == (2,)
        assert behaviour.ceiled(scores, ceilings) == pytest.approx(1, abs=0.05)
        assert np.all(ceilings < 0.99)
        other, _ = behaviour.i2n(self.probabilities(seed=2), self.objects, trials)
        assert np.abs(other).max() < 3 * 0.075

    def test_readout(self):
        """Objects that lie apart are told apart; features on other scales change nothing."""
        centres = rng(0).normal(size=(4, 30)) * 3
        seen, new = (centres[self.objects] + rng(s).normal(size=(60, 30)) for s in (1, 2))
        probabilities = behaviour.readout(seen, self.objects, new)
        np.testing.assert_allclose(probabilities.sum(1), 1)
        assert np.array_equal(probabilities.argmax(1), self.objects)
        scales = np.geomspace(1e-3, 1e3, 30)
        scaled = behaviour.readout(seen * scales, self.objects, (new * scales).reshape(60, 3, 10))
        np.testing.assert_allclose(scaled, probabilities, atol=1e-4)  # the solver's tolerance

    def test_bad_input_is_refused(self):
        with pytest.raises(ValueError, match='each at least once'):
            behaviour.readout(np.ones((2, 3)), np.array([0, 2]), np.ones((1, 3)))
        with pytest.raises(ValueError, match=r'trials \(5, 2\)'):
            behaviour.i2n(np.ones((3, 2)), np.zeros(3, int), np.zeros((5, 2), int))
