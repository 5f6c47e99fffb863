"""Maps of what neurons do: by loops over neurons, in closed form, by hand, and drawn."""

import numpy as np
import pytest
import tiny_all_tnn
import tiny_runs

from experiments.reports import sheets
from lcn_jax.layer.grid import Grid
from lcn_jax.trained import maps
from lcn_jax.trained.load import load

RANDOM = np.random.default_rng(0)


def moments(activations, labels, classes=4, batch=7):
    starts = range(0, len(labels), batch)
    parts = [({'layer': activations[i : i + batch]}, labels[i : i + batch]) for i in starts]
    return maps.moments(parts, classes)['layer']


# ---- Categories. ---------------------------------------------------------------------------------


def test_tuning_is_that_of_a_loop_over_neurons():
    labels = RANDOM.permutation(np.repeat([0, 1, 3], [5, 6, 9]))
    activations = RANDOM.standard_normal((20, 2, 4, 3)).astype(np.float32)
    activations[:, 0, 2, 1] = -1  # never responds
    of = moments(activations, labels)
    found, all_d_primes = maps.tuning(of), maps.d_primes(of)
    assert list(found) == list(maps.TUNING)
    np.testing.assert_allclose(maps.energy(of), np.abs(activations).mean(0), rtol=1e-6)
    assert np.isnan(all_d_primes[2]).all()
    for i, j, o in np.ndindex(2, 4, 3):
        responses = np.maximum(activations[:, i, j, o].astype(float), 0)
        if (i, j, o) == (0, 2, 1):
            assert all(np.isnan(values[i, j, o]) for values in found.values())
            continue
        profile = {c: responses[labels == c].mean() for c in (0, 1, 3)}
        best = max(profile, key=lambda c: profile[c])
        assert found['preferred'][i, j, o] == best
        shares = np.array(list(profile.values())) / sum(profile.values())
        expected = -sum(p * np.log2(p) for p in shares if p > 0)
        assert found['entropy'][i, j, o] == pytest.approx(expected)
        for c in profile:
            one, rest = responses[labels == c], responses[labels != c]
            d_prime = (one.mean() - rest.mean()) / np.sqrt((one.var() + rest.var()) / 2)
            assert all_d_primes[c, i, j, o] == pytest.approx(d_prime)
        assert found['selectivity'][i, j, o] == all_d_primes[best, i, j, o]


def test_entropy_is_nothing_for_one_class_and_most_for_all_alike():
    labels = np.repeat(np.arange(4), 2)
    activations = np.stack([labels == 2, labels >= 0], axis=1).astype(float)[:, None, None]
    entropy = maps.tuning(moments(activations, labels))['entropy']
    np.testing.assert_allclose(entropy, [[[0, 2]]])


# ---- Orientations. -------------------------------------------------------------------------------


def test_neurons_prefer_the_grating_that_they_are_made_of():
    """Whatever its phase is."""
    angles = np.pi * np.arange(8) / 8
    window = np.exp(-(((np.indices((16, 16)) - 7.5) / 3) ** 2).sum(0) / 2)[..., None]  # round
    weights = np.stack(
        [window * (maps.gratings(16, 4, a, 5, 1)[RANDOM.integers(5)] - 0.5) for a in angles]
    )
    shown = [maps.gratings(16, w, angle, 8, 1) for w in (4, 8) for angle in angles]
    assert all(image.min() >= 0 and image.max() <= 1 for image in shown)
    batches = [
        {'layer': np.tensordot(images - 0.5, weights, ([1, 2, 3], [1, 2, 3]))[:, None, None]}
        for images in shown
    ]
    responses = maps.best_phases(batches)['layer'].reshape(2, 8, 1, 1, 8)
    found = maps.orientation(responses, angles)
    apart = (found['preference'].ravel() - angles + np.pi / 2) % np.pi - np.pi / 2
    np.testing.assert_allclose(apart, 0, atol=0.02)
    assert (found['wavelength'] == 0).all() and (found['strength'] > 0.3).all()


def test_stripes_of_a_grating_lie_along_its_angle():
    horizontal, vertical = (maps.gratings(8, 4, angle, 1)[0, ..., 0] for angle in (0, np.pi / 2))
    np.testing.assert_allclose(horizontal, np.broadcast_to(horizontal[:, :1], (8, 8)), atol=1e-6)
    np.testing.assert_allclose(vertical, horizontal.T, atol=1e-6)
    rising = maps.gratings(8, 4, np.pi / 4, 1)[0, ..., 0]  # along it: one up, one to the right
    np.testing.assert_allclose(rising[1:, :-1], rising[:-1, 1:], atol=1e-6)


def test_the_circular_mean_in_closed_form():
    angles = np.pi * np.arange(8) / 8
    r = np.stack([1 + np.cos(2 * (angles - a)) for a in (0.3, 2.9)] + [np.zeros(8)], axis=-1)
    found = maps.orientation(r.reshape(1, 8, 1, 1, 3), angles)
    np.testing.assert_allclose(found['preference'].ravel(), [0.3, 2.9, np.nan])
    np.testing.assert_allclose(found['strength'].ravel(), [0.5, 0.5, np.nan])


# ---- Smoothness. ---------------------------------------------------------------------------------


def test_neighbours_that_prefer_the_same_by_hand():
    preferred = np.array([[0, 0, 1], [0, np.nan, 1]])
    # Pairs: 00, 01 | (0 nan), (nan 1) | 00, (0 nan), 11; by chance 3·2 + 2·1 of 5·4.
    assert maps.alike(preferred) == (3 / 4, 8 / 20)


def test_the_power_of_a_wave_is_at_its_frequency():
    rows, columns = np.indices((24, 24)) / 24
    wave = np.exp(2j * np.pi * (3 * rows + 4 * columns))
    found = maps.radial_power(2 * wave + 1)
    assert len(found) == 13
    u, v = np.indices((24, 24))
    u, v = np.where(u > 12, u - 24, u), np.where(v > 12, v - 24, v)
    ring = (np.rint(np.hypot(u, v)) == 5).sum()
    expected = np.zeros(13)
    expected[[0, 5]] = 1, 4 / ring
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_how_far_a_neuron_must_look_is_that_of_a_loop():
    kinds = RANDOM.choice([0, 1, 2, np.nan], (9, 12), p=[0.6, 0.3, 0.05, 0.05])
    found = maps.cluster_size(kinds)
    assert len(np.unique(found[~np.isnan(found)])) > 1
    for i, j in np.ndindex(9, 12):
        expected = np.nan
        for r in (3, 2, 1):
            rows, columns = (np.arange(k - r, k + r + 1) for k in (i, j))
            if {0, 1, 2} <= set(kinds[np.ix_(rows % 9, columns % 12)].ravel()):
                expected = r
        np.testing.assert_equal(found[i, j], expected)
    assert np.isnan(maps.cluster_size(np.full((4, 4), np.nan))).all()


# ---- Wiring. -------------------------------------------------------------------------------------


def test_wiring_is_that_of_a_loop_over_weights():
    grid = Grid.create((5, 4), (3, 2), (2, 1), 'SAME', kernel_dilation=(1, 2))
    height, width = grid.output_size
    kernel = RANDOM.standard_normal((height, width, 3, 2, 4, 6))
    expected = np.zeros((height, width, 6))
    for i, j, a, b, c, o in np.ndindex(*kernel.shape):
        row, column = grid.starts(0)[i] + a, grid.starts(1)[j] + 2 * b
        if not (0 <= row < 5 and 0 <= column < 4):
            continue
        # Sheets of 2 × 2 channels and 2 × 3 features.
        theirs = (2 * row + c // 2 + 0.5) / 10, (2 * column + c % 2 + 0.5) / 8
        own = (2 * i + o // 3 + 0.5) / (2 * height), (3 * j + o % 3 + 0.5) / (3 * width)
        distance = np.hypot(theirs[0] - own[0], theirs[1] - own[1])
        expected[i, j, o] += abs(kernel[i, j, a, b, c, o]) * distance
    np.testing.assert_allclose(maps.wiring(kernel, grid), expected)
    with pytest.raises(ValueError, match='without circular padding'):
        maps.wiring(kernel, Grid.create((5, 4), (3, 2), padding='CIRCULAR'))


# ---- Drawn. --------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', sheets.MAPS)
def test_a_map_is_drawn_on_the_sheet(name):
    values = RANDOM.integers(0, 4, (2, 3, 6)).astype(float)
    strengths = {'one': values + 1, 'other': values + 1} if name == 'preference' else None
    figure = sheets.draw({'one': values, 'other': values}, name, strengths)
    image = figure.axes[1].get_images()[0].get_array()
    assert image.shape == (4, 9)
    drawn = np.degrees(values) if name == 'preference' else values
    assert image[3, 4] == drawn[1, 1, 4]
    assert figure.axes[1].get_title() == 'other: 2 × 3 positions of 2 × 3 features'


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    """A file with the small All-TNN."""
    path = tmp_path_factory.mktemp('maps') / 'net.npz'
    tiny_all_tnn.trained().save(path)
    return path


@pytest.mark.slow
def test_maps_of_a_network_are_written(network):
    kinds = 'orientation,selectivity,entropy,energy,wiring,smoothness'
    done = tiny_runs.call('maps', f'--workdir={network}', f'--kind={kinds}')
    assert done.returncode == 0, done.stderr
    assert 'layer1/preferred: ' in done.stdout and 'of neighbours alike' in done.stdout
    folder = network.with_suffix('') / 'maps'
    found = dict(np.load(folder / 'maps.npz'))
    of_layers = set(sheets.MAPS) - {'wiring'}
    for layer, shape in (('1', (7, 7, 4)), ('2', (2, 2, 9))):
        names = {f'layer{layer}/{name}' for name in of_layers} | {f'conv{layer}/wiring'}
        assert {name: found[name].shape for name in names} == dict.fromkeys(names, shape)
    for name in (*sheets.MAPS, 'smoothness'):
        assert (folder / f'{name}.png').read_bytes().startswith(b'\x89PNG')
    assert found['layer1/preference/power'].shape == (8,)
    trained = load(network)
    images = trained.source.split('test').read()
    expected = trained.activations(images.images, ['layer2'])['layer2']
    np.testing.assert_allclose(found['layer2/energy'], np.abs(expected).mean(0), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    'flags, message',
    [
        (['--kind=beauty'], '--kind=beauty: known are orientation'),
        (['--kind=smoothness,energy'], 'add orientation or selectivity'),
        (['--kind=orientation', '--wavelengths=0'], '--wavelengths=0 must be numbers above 0'),
        (['--kind=orientation', '--layers=logits'], 'logits cannot be mapped'),
    ],
)
def test_a_mistake_is_one_line(network, flags, message):
    done = tiny_runs.call('maps', f'--workdir={network}', *flags)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert message in done.stderr.strip().splitlines()[-1]
