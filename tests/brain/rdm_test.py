"""Dissimilarities, against scipy and by hand."""

import numpy as np
import pytest
from scipy import stats

from lcn_jax.brain import rdm

rng = np.random.default_rng


class TestRdm:
    def test_rdm_is_one_minus_the_correlation(self):
        x = rng(0).normal(size=(4, 2, 3))
        x[3] = 2  # equal features
        pairs = [(0, 1), (0, 2), (1, 2)]
        full = [1 - stats.pearsonr(x[i].ravel(), x[j].ravel()).statistic for i, j in pairs]
        np.testing.assert_allclose(rdm.rdm(x)[[0, 1, 3]], full)
        assert np.isnan(rdm.rdm(x)[[2, 4, 5]]).all()

    def test_similarity_is_spearmans(self):
        model, measured = rng(0).integers(0, 9, 50), rng(1).integers(0, 9, (3, 50))  # with ties
        expected = np.mean([stats.spearmanr(model, one).statistic for one in measured])
        assert rdm.similarity(model, measured) == pytest.approx(expected)
        assert rdm.similarity(model, np.exp(model)[None]) == pytest.approx(1)

    def test_noise_ceiling(self):
        """The true model is between the bounds, and no model is above the upper one."""
        truth = rng(0).normal(size=2000)
        measured = truth + rng(1).normal(size=(5, 2000))
        low, high = rdm.noise_ceiling(measured)
        assert low < rdm.similarity(truth, measured) < high
        assert rdm.similarity(measured.mean(0), measured) <= high + 1e-3
        assert rdm.noise_ceiling(np.stack([truth, truth])) == pytest.approx((1, 1))
        with pytest.raises(ValueError, match='two matrices or more'):
            rdm.noise_ceiling(truth[None])
