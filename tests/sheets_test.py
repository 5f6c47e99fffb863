"""Maps of what neurons prefer: by loops over neurons, and by hand."""

import numpy as np
import pytest

from experiments.reports import sheets

RANDOM = np.random.default_rng(0)


def test_tuning_is_that_of_a_loop_over_neurons():
    labels = RANDOM.permutation(np.repeat([0, 1, 3], [5, 6, 9]))
    activations = RANDOM.standard_normal((20, 3, 2, 4))  # (N, O, H, W)
    activations[:, 1, 0, 2] = -1  # never responds
    found = sheets.tuning(activations, labels)
    for o, i, j in np.ndindex(3, 2, 4):
        responses = np.maximum(activations[:, o, i, j], 0)
        if (o, i, j) == (1, 0, 2):
            assert all(np.isnan(values[i, j, o]) for values in found.values())
            continue
        profile = {c: responses[labels == c].mean() for c in (0, 1, 3)}
        best = max(profile, key=lambda c: profile[c])
        assert found['preferred'][i, j, o] == best
        shares = np.array(list(profile.values())) / sum(profile.values())
        expected = -sum(p * np.log2(p) for p in shares if p > 0)
        assert found['entropy'][i, j, o] == pytest.approx(expected)
        one, rest = responses[labels == best], responses[labels != best]
        dprime = (one.mean() - rest.mean()) / np.sqrt((one.var() + rest.var()) / 2)
        assert found['selectivity'][i, j, o] == pytest.approx(dprime)


def test_entropy_is_nothing_for_one_class_and_most_for_all_alike():
    labels = np.repeat(np.arange(4), 2)
    activations = np.stack([labels == 2, labels >= 0], axis=1).astype(float)[..., None, None]
    np.testing.assert_allclose(sheets.tuning(activations, labels)['entropy'], [[[0, 2]]])


def test_neighbours_that_prefer_the_same_by_hand():
    preferred = np.array([[0, 0, 1], [0, np.nan, 1]])
    # Pairs: 00, 01 | (0 nan), (nan 1) | 00, (0 nan), 11; by chance 3·2 + 2·1 of 5·4.
    assert sheets.alike(preferred) == (3 / 4, 8 / 20)


@pytest.mark.parametrize('name', sheets.MAPS)
def test_a_map_is_drawn_on_the_sheet(name):
    values = RANDOM.integers(0, 4, (2, 3, 6)).astype(float)
    (ax, _) = sheets.draw(values, name, 'title').axes
    image = ax.get_images()[0].get_array()
    assert image.shape == (4, 9)
    assert image[3, 4] == values[1, 1, 4]
