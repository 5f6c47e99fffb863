"""Features, predictivity, ceilings, behaviour and dissimilarities, against theory and by hand.

LCN_NEURAL_DIR names a folder with v4_210325.npz and v4_210325_images.zip, a session of macaque V4
(Cowley, Stan, Pillow and Smith, 2023), for which numbers are known that Brain-Score's code gave.
"""

import collections
import hashlib
import io
import json
import os
import pathlib
import subprocess
import sys
import types
import zipfile

import jax
import numpy as np
import pytest
import tiny_runs
from PIL import Image
from scipy import stats

from experiments.reports import brain as brain_report
from lcn_jax import local
from lcn_jax.brain import assembly, behaviour, features, predictivity, rdm, stimuli
from lcn_jax.errors import UsageError
from lcn_jax.training import checkpoint, state, train, wake
from lcn_jax.training import config as configs

NEURAL_DIR = os.environ.get('LCN_NEURAL_DIR')
rng = np.random.default_rng


def make_config(kind):
    config = configs.default()
    config.dataset, config.image_size = 'cifar10', 8
    config.mean, config.std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    config.model.stage_sizes, config.model.width = (1, 1), 4
    config.batch_size = 8
    return configs.apply_kind(config, kind)


def make_state(config, seed):
    """Random numbers that let the activity through, which take less time than an initialisation."""
    optimizer = wake.optimizer(config, total_steps=1)
    model, shape = train.make_model(config), train.image_shape(config)
    shapes = jax.eval_shape(
        lambda key: state.create(key, model, optimizer, shape), jax.random.key(0)
    )
    random = rng(seed)

    def values(path, leaf):
        if path[-1].key == 'kernel':
            spread = np.sqrt(2 / np.prod(leaf.shape[-4:-1]))
            return random.normal(0, spread, leaf.shape).astype(leaf.dtype)
        return random.uniform(0.5, 1, leaf.shape).astype(leaf.dtype)

    return shapes.replace(
        step=np.int32(3),
        params=jax.tree_util.tree_map_with_path(values, shapes.params),
        batch_stats=jax.tree_util.tree_map_with_path(values, shapes.batch_stats),
        opt_state=jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes.opt_state),
    )


def make_run(workdir, kind, seed=0):
    """A workdir with a checkpoint of step 3, as if trained."""
    config = make_config(kind)
    snapshot = checkpoint.Snapshot.start(make_state(config, seed))
    checkpoint.claim(str(workdir), config)
    with checkpoint.Checkpoints(str(workdir)) as checkpoints:
        checkpoints.save(3, snapshot, checkpoint.NOT_EVALUATED)
    return workdir


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """The workdirs of a convolutional and a locally connected network."""
    folder = tmp_path_factory.mktemp('runs')
    kinds = {'conv': 0, 'lc': 1}
    for kind, seed in kinds.items():
        (folder / kind).mkdir()
        make_run(folder / kind, kind, seed)
    return {kind: folder / kind for kind in kinds}


@pytest.fixture(scope='module')
def networks(runs):
    return {kind: features.load(str(workdir)) for kind, workdir in runs.items()}


@pytest.fixture(scope='module')
def images():
    return list(rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8))


LAYERS = ('stem', 'stage1_block1', 'stage2_block1', 'pooled', 'logits')
SHORTCUT = 'stage2_block1_shortcut'


@pytest.fixture(scope='module')
def found(networks, images):
    """The layers of each network."""
    return {
        kind: features.extract(network, images, (*LAYERS, SHORTCUT))
        for kind, network in networks.items()
    }


class TestFeatures:
    @pytest.mark.parametrize('kind', ['conv', 'lc'])
    def test_blocks_are_what_the_network_computes(self, networks, found, images, kind):
        """From each block, what comes after it follows."""
        network, found = networks[kind], found[kind]
        assert features.blocks(network.model) == LAYERS[1:3]
        assert [x.shape[1:] for x in found.values()] == [
            *((4, 8, 8), (4, 8, 8), (8, 4, 4)), (8,), (10,), (8, 4, 4),
        ]  # fmt: skip
        params = network.variables['params']
        kernel = params[SHORTCUT]['kernel']
        if kind == 'conv':
            kernel = local.tile_kernel(kernel, (4, 4))
        shortcut = local.conv_local(
            found['stage1_block1'].transpose(0, 2, 3, 1), kernel, stride=2, padding=0
        ).transpose(0, 3, 1, 2)
        pooled = found['stage2_block1'].mean((2, 3))
        logits = found['pooled'] @ params['logits']['kernel'] + params['logits']['bias']
        expected = {SHORTCUT: shortcut, 'pooled': pooled, 'logits': logits}
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
        whole = jax.jit(lambda x: network.model.apply(network.variables, x, train=False))
        plain = whole((np.array(images) / 255 - network.mean) / network.std)
        np.testing.assert_allclose(found['logits'], plain, rtol=1e-5, atol=1e-5)

    def test_every_image_is_there_once_whatever_the_batch(self, networks, found, images):
        for name, values in features.extract(networks['conv'], images, LAYERS, 3).items():
            np.testing.assert_allclose(values, found['conv'][name], rtol=1e-5, atol=1e-6)

    def test_images_are_resized_whole(self):
        wide = np.zeros((30, 50, 3), np.uint8)
        wide[:, 25:] = 200, 100, 0
        (small,) = features.resized([wide], (4, 4, 3))
        np.testing.assert_array_equal(small[:, 0], np.zeros((4, 3)))
        np.testing.assert_array_equal(small[:, 3], np.tile([200, 100, 0], (4, 1)))

    def test_fine_stripes_become_grey(self):
        """As without aliasing; a few grey levels are left of 255 at the border."""
        stripes = np.zeros((64, 64), np.uint8)
        stripes[:, ::2] = 255
        (small,) = features.resized([stripes], (8, 8, 3))
        assert np.abs(small.astype(float) - 127.5).max() < 12

    def test_grey_and_colour(self):
        grey = rng(0).integers(0, 256, (9, 9), np.uint8)
        colour = np.repeat(grey[..., None], 3, -1)
        for channels in (1, 3):
            of_all = features.resized([grey, grey[..., None], colour], (9, 9, channels))
            expected = np.repeat(grey[..., None], channels, -1)
            for image in of_all:
                np.testing.assert_array_equal(image, expected)

    @pytest.mark.parametrize('image', [np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8)])
    def test_what_is_no_image_is_refused(self, image):
        with pytest.raises(ValueError, match=r'must be uint8 of shape \(H, W\)'):
            features.resized([image], (8, 8, 3))

    def test_unknown_layers_are_refused_with_those_there_are(self, networks, images):
        with pytest.raises(
            ValueError, match=r"'block7'; known: stem_conv, .*stage2_block1, pooled"
        ):
            features.extract(networks['conv'], images, ['block7'])

    def test_a_run_that_is_not_there(self, tmp_path):
        with pytest.raises(UsageError, match='holds no run'):
            features.load(str(tmp_path))


def pls_by_the_book(x, y, groups):
    """Brain-Score's metric with all features, as its documentation has it."""
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.model_selection import StratifiedShuffleSplit

    medians = []
    split = StratifiedShuffleSplit(10, train_size=0.9, random_state=1)
    for fit, test in split.split(x, groups):
        predicted = PLSRegression(25, scale=False).fit(x[fit], y[fit]).predict(x[test])
        rs = [stats.pearsonr(predicted[:, i], y[test, i])[0] for i in range(y.shape[1])]
        medians.append(np.median(rs))
    return np.mean(medians)


def noisy(signal, reliability, repetitions, seed):
    """(S, N) -> (S, N, R): the means over repetitions have the reliability."""
    noise = np.sqrt(repetitions * signal.var(0) * (1 / reliability - 1))[:, None]
    return signal[..., None] + noise * rng(seed).normal(size=(*signal.shape, repetitions))


class TestPredictivity:
    def test_fewer_coordinates_change_nothing(self):
        """Not one prediction, from more than 10,000 features; but for rounding, they are exact.

        Power iterations stop at a change of 1e-6, which rotating the coordinates leaves as it is.
        """
        from sklearn.cross_decomposition import PLSRegression

        x = (rng(0).normal(size=(100, 60)) @ rng(1).normal(size=(60, 12_000))).astype(np.float32)
        x = x + rng(2).normal(size=x.shape).astype(np.float32) + 5
        y = rng(3).normal(size=(100, 5)) + x[:, :5]
        groups = np.arange(100) % 4
        kept = predictivity.coordinates(x)
        assert kept.shape == (100, 100)
        np.testing.assert_allclose(
            np.linalg.norm(kept[:50] - kept[50:], axis=1), np.linalg.norm(x[:50] - x[50:], axis=1),
            rtol=1e-6,  # single precision
        )  # fmt: skip
        predicted, expected = (
            PLSRegression(25, scale=False).fit(z[:90], y[:90]).predict(z[90:]) for z in (kept, x)
        )
        np.testing.assert_allclose(predicted, expected, atol=1e-9)
        found = predictivity.prediction_correlations(x.reshape(100, 30, 20, 20), y, groups)
        assert predictivity.aggregate(found) == pytest.approx(
            pls_by_the_book(x, y, groups), abs=1e-9
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
        assert predictivity.ceiled_since_2026(score, ceiling) == pytest.approx(1, abs=0.05)
        low, high = brain_report.interval(correlations)
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
        low, high = brain_report.interval(correlations)
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
        """The mean of a half is over those there are; images without any in it do not count."""
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
        assert predictivity.ceiled_since_2026(score, ceiling) == pytest.approx(0.0592273, abs=1e-7)
        assert predictivity.ceiled_until_2026(score, ceiling) == pytest.approx(0.0812629, abs=1e-7)

    def test_interval_has_the_width_of_theory(self):
        """A median of n normal values has the standard error sqrt(pi / 2 n).

        It hangs on the density at the median, which 400 values tell to a few tenths at worst.
        """
        values = rng(0).normal(size=(1, 400))
        low, high = brain_report.interval(values)
        assert high - low == pytest.approx(2 * 1.96 * np.sqrt(np.pi / 800), rel=0.3)

    def test_differences_are_over_the_same_neurons(self):
        """They are exact where every neuron differs by the same, however different neurons are."""
        values = rng(0).normal(size=(10, 30))
        found = brain_report.difference(values, values + 0.25)
        assert found['difference'] == pytest.approx(0.25)
        assert found['difference_interval'] == pytest.approx((0.25, 0.25))

    def test_halves_have_each_kind_in_proportion(self):
        groups = np.repeat([0, 1, 2], [60, 30, 10])
        for half in predictivity.halves(100, groups):
            assert np.bincount(groups[half]).tolist() == [30, 15, 5]
        assert np.array_equal(
            np.sort(np.concatenate(predictivity.halves(100, groups))), np.arange(100)
        )

    def test_too_few_features_are_refused(self):
        x = np.repeat(rng(0).normal(size=(60, 20)), 2, axis=1)
        with pytest.raises(ValueError, match=r'25 components .* there are 20'):
            predictivity.prediction_correlations(x, np.zeros((60, 2)))


@pytest.mark.skipif(NEURAL_DIR is None, reason='LCN_NEURAL_DIR is not set')
def test_golden_numbers():
    """Six digits of what Brain-Score's code gave for pixels and the session of V4."""
    folder = pathlib.Path(NEURAL_DIR)
    neurons = assembly.read(
        str(folder / 'v4_210325.npz'), axes=('neuroids', 'stimuli', 'repetitions')
    )
    responses = neurons.responses[..., :6]
    files = stimuli.read(str(folder / 'v4_210325_images.zip'))
    # Theirs is resized by Pillow's default, which is not what networks see here.
    pixels = np.stack([
        np.asarray(Image.fromarray(stimuli.decode(file, name)).resize((32, 32))) / 255
        for name, file in files.items()
    ])  # fmt: skip
    ceiling = predictivity.aggregate(predictivity.split_half_reliabilities(responses))
    assert ceiling == pytest.approx(0.7288358490634754, abs=1e-6)
    score = predictivity.aggregate(
        predictivity.prediction_correlations(pixels, responses.mean(-1), np.arange(640) % 8)
    )
    assert score == pytest.approx(0.2077666997998, abs=1e-6)
    assert predictivity.ceiled_since_2026(score, ceiling) == pytest.approx(0.0592273, abs=1e-6)
    assert predictivity.ceiled_until_2026(score, ceiling) == pytest.approx(0.0812629, abs=1e-6)


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


class TestRdm:
    def test_is_one_less_the_correlation(self):
        x = rng(0).normal(size=(4, 2, 3))
        x[3] = 2  # all features are the same
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
        """The true model is between the bounds, and nothing above the upper one."""
        truth = rng(0).normal(size=2000)
        measured = truth + rng(1).normal(size=(5, 2000))
        low, high = rdm.noise_ceiling(measured)
        assert low < rdm.similarity(truth, measured) < high
        assert rdm.similarity(measured.mean(0), measured) <= high + 1e-3
        assert rdm.noise_ceiling(np.stack([truth, truth])) == pytest.approx((1, 1))
        with pytest.raises(ValueError, match='two matrices or more'):
            rdm.noise_ceiling(truth[None])


class TestAssembly:
    def save(self, tmp_path, **arrays):
        np.savez(tmp_path / 'a.npz', **arrays)
        return str(tmp_path / 'a.npz')

    def test_axes_and_missing_repetitions(self, tmp_path):
        """The first two of each are kept, where one neuron has no more of one image."""
        responses = rng(0).normal(size=(3, 4, 5))  # neurons, images, repetitions
        responses[1, 2, [0, 2, 4]] = np.nan
        responses[0, 0, 1] = np.nan
        path = self.save(tmp_path, responses=responses, kind=np.arange(4), region=list('aab'))
        found = assembly.read(path, ('neuroids', 'stimuli', 'repetitions'), group='kind')
        assert found.responses.shape == (4, 3, 2)
        np.testing.assert_array_equal(found.responses[2, 1], responses[1, 2, [1, 3]])
        np.testing.assert_array_equal(found.responses[0, 0], responses[0, 0, [0, 2]])
        np.testing.assert_array_equal(found.responses[3, 2], responses[2, 3, :2])
        np.testing.assert_array_equal(found.region('b'), found.responses[:, 2:])
        assert found.groups.tolist() == [0, 1, 2, 3] and found.stimuli is None

    @pytest.mark.parametrize(
        'change, message',
        [
            (dict(responses=np.zeros((4, 3))), 'three axes'),
            (dict(group='kind'), "no 'kind' for each image; it has name"),
            (dict(axes=('stimuli', 'time', 'repetitions')), 'they must be stimuli, neuroids'),
            (dict(responses=np.full((4, 3, 2), np.nan)), 'fewer than two'),
            (
                dict(stimulus_id=np.ones((4, 1))),
                r'`stimulus_id` of shape \(4, 1\); one for each',
            ),
            (dict(region=np.ones(4)), r'one for each neuron would be \(3,\)\. Are the axes'),
        ],
    )
    def test_what_cannot_be_used_is_refused(self, tmp_path, change, message):
        arrays = {'responses': np.zeros((4, 3, 2))}
        for name in ('responses', 'stimulus_id', 'region'):
            if name in change:
                arrays[name] = change.pop(name)
        path = self.save(tmp_path, **arrays, name=list('wxyz'))
        with pytest.raises(UsageError, match=message):
            assembly.read(path, **change)

    def test_files_that_are_not_there_or_no_npz(self, tmp_path):
        with pytest.raises(UsageError, match='there is no file'):
            assembly.read(str(tmp_path / 'a.npz'))
        (tmp_path / 'b.npz').write_text('hello')
        with pytest.raises(UsageError, match='is no npz file'):
            assembly.read(str(tmp_path / 'b.npz'))

    def test_netcdf(self, tmp_path):
        """Presentations in any order, of one image more, as Brain-Score's files have them."""
        xarray = pytest.importorskip('xarray')
        responses = rng(0).normal(size=(3, 2, 2))  # images, neurons, repetitions
        order = [(2, 0), (0, 0), (1, 0), (0, 1), (2, 1), (1, 1), (0, 0)]
        array = xarray.DataArray(
            np.array([responses[image, :, repetition] for image, repetition in order]).T[..., None],
            dims=('neuroid', 'presentation', 'time_bin'),
            coords={
                'stimulus_id': ('presentation', [f'im{image}' for image, _ in order]),
                'object_name': ('presentation', [f'object{image % 2}' for image, _ in order]),
                'region': ('neuroid', ['V4', 'IT']),
            },
        )
        array.to_netcdf(tmp_path / 'a.nc')
        found = assembly.read(str(tmp_path / 'a.nc'), group='object_name')
        third = np.full((3, 2, 1), np.nan)
        third[0, :, 0] = responses[0, :, 0]
        np.testing.assert_array_equal(found.responses, np.append(responses, third, axis=2))
        assert found.stimuli.tolist() == ['im0', 'im1', 'im2']
        assert found.groups.tolist() == ['object0', 'object1', 'object0']
        assert found.regions.tolist() == ['V4', 'IT']

    def test_netcdf_with_names_of_repetitions(self, tmp_path):
        """An image that was not shown in the first session has no first repetition."""
        xarray = pytest.importorskip('xarray')
        array = xarray.DataArray(
            [[1.0], [2.0], [3.0]],
            dims=('presentation', 'neuroid'),
            coords={
                'stimulus_id': ('presentation', ['b', 'a', 'a']),
                'repetition': ('presentation', [7, 7, 5]),
            },
        )
        array.to_netcdf(tmp_path / 'a.nc')
        found = assembly.read(str(tmp_path / 'a.nc'))
        np.testing.assert_array_equal(found.responses[:, 0], [[3, 2], [np.nan, 1]])

    def test_netcdf_without_xarray(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, 'xarray', None)
        (tmp_path / 'a.nc').touch()
        with pytest.raises(UsageError, match=r"pip install 'lcn_jax\[netcdf\]'"):
            assembly.read(str(tmp_path / 'a.nc'))


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'PNG')
    return file.getvalue()


class TestStimuli:
    def test_order_of_numbers_and_choice_by_name(self, tmp_path):
        with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
            for name in ('a/im10.png', 'a/im2.png', 'b/im1.JPG', 'readme.txt', 'b/im2.png'):
                archive.writestr(name, name)
        files = stimuli.read(str(tmp_path / 'a.zip'))
        assert list(files) == ['a/im2.png', 'a/im10.png', 'b/im1.JPG', 'b/im2.png']
        assert list(stimuli.choose(files, ['im1', 'im10.png', 'b/im2.png'])) == [
            'b/im1.JPG', 'a/im10.png', 'b/im2.png',
        ]  # fmt: skip
        for name, count in (('im2', 2), ('im3', 0)):
            with pytest.raises(UsageError, match=f'there are {count} images called {name}'):
                stimuli.choose(files, [name])

    def test_what_is_no_image_is_named(self, images):
        np.testing.assert_array_equal(stimuli.decode(png(images[0]), 'x.png'), images[0])
        with pytest.raises(UsageError, match=r'x\.png is not a whole image'):
            stimuli.decode(png(images[0])[:-30], 'x.png')


def call(module, *flags):
    """What a binary prints."""
    return subprocess.run(
        [sys.executable, '-m', f'experiments.{module}', *flags],
        cwd=tiny_runs.ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


@pytest.fixture(scope='module')
def session(networks, tmp_path_factory):
    """A folder with images.zip and neurons.npz: neurons that read a block of the first network."""
    folder = tmp_path_factory.mktemp('session')
    shown = rng(5).integers(0, 256, (160, 8, 8, 3), np.uint8)
    with zipfile.ZipFile(folder / 'images.zip', 'w') as archive:
        for number, image in enumerate(shown):
            archive.writestr(f'{number}.png', png(image))
    read = features.extract(networks['conv'], list(shown), ['stage2_block1'])['stage2_block1']
    signal = read.reshape(160, -1) @ rng(6).normal(size=(128, 12))
    responses = noisy(signal, 0.9, repetitions=4, seed=7)
    order = rng(8).permutation(160)
    np.savez(
        folder / 'neurons.npz',
        responses=responses[order],
        stimulus_id=order.astype(str),
        kind=order % 4,
        region=['V4'] * 8 + ['IT'] * 4,
    )
    return folder


class TestExperiment:
    def test_finds_the_block(self, runs, session, tmp_path):
        workdirs = list(map(str, runs.values()))
        printed = call(
            'brain_score',
            '--workdir=' + ','.join(workdirs),
            f'--assembly={session}/neurons.npz',
            f'--images={session}/images.zip',
            '--group=kind',
            f'--out={tmp_path}',
        )
        report = json.loads((tmp_path / 'brain_score.json').read_text())
        assert report['workdirs'] == dict(zip(('conv', 'lc'), workdirs))
        assert list(report['regions']) == ['IT', 'V4']
        for name, neurons in (('V4', 8), ('IT', 4)):
            region = report['regions'][name]
            assert (region['neurons'], region['images'], region['repetitions']) == (neurons, 160, 4)
            assert 0.8 < region['ceiling_interval'][0] < region['ceiling_interval'][1] < 1
            conv, other = region['runs'].values()
            assert conv['best']['layer'] == 'stage2_block1' and conv['step'] == 3
            assert 'difference' not in conv['best']
            difference = conv['best']['score'] - other['best']['score']
            assert other['best']['difference'] == pytest.approx(-difference)
            scores = {layer: record['score'] for layer, record in conv['layers'].items()}
            assert max(scores, key=scores.get) == 'stage2_block1'
            assert f'{scores["stage2_block1"]:.3f}' in printed
        low, high = report['regions']['V4']['runs']['lc']['best']['difference_interval']
        assert low < high < 0
        assert (tmp_path / 'brain_score.png').read_bytes().startswith(b'\x89PNG')

    def test_other_images_than_responses_are_refused(self, session):
        neurons = assembly.Assembly(np.zeros((5, 2, 3)), None, None, np.array(['a', 'a']))
        with pytest.raises(UsageError, match=r'there are 160 images .* responses to 5; .* --axes='):
            stimuli.shown(str(session / 'images.zip'), neurons)


class StandIn:
    """What Brain-Score 2.4.2 does with a model, in short, for it cannot be installed beside ours.

    Its arrays have names for their axes and coordinates; these have not.
    """

    class Stimuli(dict):
        """There, a table with these columns, and the files' paths."""

        identifier = 'shown'

        def get_stimulus(self, name):
            return self['paths'][name]

    class Extractor:
        kept = {}  # there, on disk

        def __init__(self, get_activations, preprocessing, identifier=False, batch_size=64):
            self.get_activations, self.preprocess = get_activations, preprocessing
            self.identifier, self.batch_size = identifier, batch_size

        def insert_attrs(self, wrapper):
            wrapper.from_stimulus_set = self.from_stimulus_set
            wrapper.from_paths = self.from_paths

        def set_visual_degrees(self, degrees):
            self.degrees = degrees

        def __call__(
            self, stimuli, layers, stimuli_identifier=None, number_of_trials=1,
            require_variance=False,
        ):  # fmt: skip
            self.trials = number_of_trials if require_variance else 1
            of = self.from_stimulus_set if hasattr(stimuli, 'get_stimulus') else self.from_paths
            return of(stimuli, layers, stimuli_identifier)

        def from_stimulus_set(self, stimulus_set, layers, stimuli_identifier=None):
            paths = [str(stimulus_set.get_stimulus(s)) for s in stimulus_set['stimulus_id']]
            return self.from_paths(paths, layers, stimuli_identifier or stimulus_set.identifier)

        def from_paths(self, stimuli_paths, layers, stimuli_identifier=None):
            """(images, units of all layers), of every file once, and once for all."""
            if self.trials > 1:
                return self.run(stimuli_paths, layers)
            once = list(dict.fromkeys(stimuli_paths))
            key = self.identifier, stimuli_identifier, tuple(layers)
            if stimuli_identifier is None or key not in self.kept:
                self.kept[key] = self.run(once, layers)
            return self.kept[key][[once.index(path) for path in stimuli_paths]]

        def run(self, paths, layers):
            """In batches that are filled up, trial after trial."""
            parts = []
            for start in range(0, len(paths), self.batch_size):
                batch = paths[start : start + self.batch_size]
                missing = self.batch_size - len(batch)
                filled = np.concatenate([batch, np.repeat(batch[-1:], missing)])
                for trial in range(self.trials):
                    images = self.preprocess(filled if missing else batch)
                    moved = [self.moved(image, trial) for image in images]
                    if not isinstance(moved[0], str):
                        moved = np.stack(moved)
                    found = self.get_activations(moved, layers)
                    assert isinstance(found, collections.OrderedDict) and list(found) == layers
                    flat = [x[: len(batch)].reshape(len(batch), -1) for x in found.values()]
                    parts.append(np.concatenate(flat, axis=1))
            return np.concatenate(parts)

        def moved(self, image, pixels):
            """To the right; the image is (C, H, W)."""
            if self.trials == 1:
                return image
            _, _, width = image.shape
            return image[:, :, (np.arange(width) - pixels).clip(0)]

    class Commitment:
        def __init__(
            self, identifier, activations_model, layers, behavioral_readout_layer=None,
            region_layer_map=None, visual_degrees=8,
        ):  # fmt: skip
            self.identifier, self.activations_model = identifier, activations_model
            self.layers, self.region_layer_map = layers, region_layer_map
            self.readout = behavioral_readout_layer or layers[-1]
            activations_model._extractor.set_visual_degrees(visual_degrees)

        def start_recording(self, recording_target, time_bins):
            self.looked_for = self.region_layer_map[recording_target]

        def start_task(self, task, fitting_stimuli):
            assert task in ('label', 'probabilities')
            self.looked_for = 'logits' if task == 'label' else self.readout
            if task == 'probabilities':
                self.look_at(fitting_stimuli)

        def look_at(self, stimuli, number_of_trials=1, require_variance=False):
            return self.activations_model(
                stimuli, layers=[self.looked_for], number_of_trials=number_of_trials,
                require_variance=require_variance,
            )  # fmt: skip


@pytest.fixture
def registry(monkeypatch):
    """model_registry with the plugin in it."""
    names = ['', '.model_helpers', '.model_helpers.activations', '.model_helpers.activations.core']
    names.append('.model_helpers.brain_transformation')
    modules = {f'brainscore_vision{name}': types.ModuleType(name) for name in names}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    registry = modules['brainscore_vision'].model_registry = {}
    modules[f'brainscore_vision{names[3]}'].ActivationsExtractorHelper = StandIn.Extractor
    modules[f'brainscore_vision{names[4]}'].ModelCommitment = StandIn.Commitment
    monkeypatch.setattr(StandIn.Extractor, 'kept', {})
    for name in ('lcn_jax.integrations.brain_score', 'lcn_jax.integrations.brain_score.model'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import lcn_jax.integrations.brain_score  # noqa: F401

    return registry


class TestPlugin:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv('LCN_BRAIN_SCORE_DIR', str(tmp_path / 'models'))
        (tmp_path / 'models/lcn_jax_lc').mkdir(parents=True)
        return tmp_path / 'models'

    @pytest.fixture
    def shown(self, images, tmp_path):
        """All but the last of the images, shown twice the first."""
        paths = {}
        for number, image in enumerate(images):
            paths[f'id{number}'] = tmp_path / f'shown{number}.png'
            paths[f'id{number}'].write_bytes(png(image))
        return StandIn.Stimuli(stimulus_id=[*list(paths)[:-1], 'id0'], paths=paths)

    def save(self, path, shown, part, **layers):
        """A file with the layers of some of the images."""
        files = [shown['paths'][name].read_bytes() for name in list(shown['paths'])[part]]
        digests = [hashlib.sha256(file).hexdigest() for file in files]
        np.savez(path, digest=digests, **{name: x[part] for name, x in layers.items()})

    def record(self, model, region, shown):
        model.start_recording(region, time_bins=[(70, 170)])
        return model.look_at(shown, number_of_trials=5)

    def expected(self, values):
        return values.reshape(len(values), -1)[[0, 1, 2, 3, 4, 5, 0]]

    def test_features_are_exchanged_as_files(self, registry, found, runs, folder, shown):
        with pytest.raises(RuntimeError, match='features of 6 images are missing') as stopped:
            self.record(registry['lcn_jax_lc'](), 'V4', shown)
        missing = folder / 'missing_images'
        assert str(missing) in str(stopped.value) and len(list(missing.iterdir())) == 6
        path = folder / 'lcn_jax_lc/first.npz'
        printed = call(
            'features', '--workdir=' + str(runs['lc']), f'--images={missing}', f'--out={path}'
        )
        assert '4 layers of 6 images' in printed
        model = registry['lcn_jax_lc']()
        assert model.identifier == 'lcn_jax_lc'
        assert model.layers == [*LAYERS[1:]]
        assert model.region_layer_map == {
            'V1': 'stage1_block1',
            'V2': 'stage1_block1',
            'V4': 'stage2_block1',
            'IT': 'stage2_block1',
        }
        assert model.activations_model._extractor.degrees == 8
        for region, layer in (('V1', 'stage1_block1'), ('IT', 'stage2_block1')):
            np.testing.assert_allclose(
                self.record(model, region, shown),
                self.expected(found['lc'][layer]),
                rtol=1e-5, atol=1e-6,  # other batches
            )  # fmt: skip
        for task, layer in (('label', 'logits'), ('probabilities', 'pooled')):
            model.start_task(task, shown)
            np.testing.assert_allclose(
                model.look_at(shown, number_of_trials=2),
                self.expected(found['lc'][layer]),
                rtol=1e-5, atol=1e-6,
            )  # fmt: skip

    def test_another_file_adds_images(self, registry, found, folder, shown):
        layer = found['lc']['stage1_block1']
        for part in (slice(0, 3), slice(3, 6)):
            path = folder / f'lcn_jax_lc/{part.start}.npz'
            self.save(path, shown, part, stage1_block1=layer)
        np.testing.assert_array_equal(
            self.record(registry['lcn_jax_lc'](), 'IT', shown), self.expected(layer)
        )

    def test_what_is_kept_of_other_files_is_not_used(self, registry, found, folder, shown):
        """Brain-Score keeps activations under the name of the model that it knows."""
        names = set()
        for kind in ('conv', 'lc', 'conv'):
            layer = found[kind]['stage1_block1']
            self.save(folder / 'lcn_jax_lc/a.npz', shown, slice(0, 6), stage1_block1=layer)
            model = registry['lcn_jax_lc']()
            np.testing.assert_array_equal(self.record(model, 'V1', shown), self.expected(layer))
            names.add(model.activations_model.identifier)
        assert len(names) == len(StandIn.Extractor.kept) == 2
        assert all(name.startswith('lcn_jax_lc-') for name in names)

    def test_what_files_lack_is_named(self, registry, found, folder, shown):
        layer = found['lc']['stage1_block1']
        self.save(folder / 'lcn_jax_lc/a.npz', shown, slice(0, 6), stage1_block1=layer)
        model = registry['lcn_jax_lc']()
        with pytest.raises(RuntimeError, match='have stage1_block1 but no pooled'):
            model.start_task('probabilities', shown)
        with pytest.raises(RuntimeError, match='from trial to trial, and needs a run'):
            model.look_at(shown, number_of_trials=2, require_variance=True)
        last = str(shown['paths']['id6'])
        with pytest.raises(RuntimeError, match='features of 1 images are missing'):
            model.activations_model.from_paths([last], ['stage1_block1'])

    def test_a_run_needs_no_files(self, registry, found, runs, folder, shown):
        (folder / 'lcn_jax_lc').rmdir()
        names = set()
        for kind in ('conv', 'lc'):
            (folder / 'lcn_jax_lc').symlink_to(runs[kind])
            model = registry['lcn_jax_lc']()
            assert model.layers == [*LAYERS[1:]]
            np.testing.assert_allclose(
                self.record(model, 'IT', shown),
                self.expected(found[kind]['stage2_block1']),
                rtol=1e-5, atol=1e-6,  # other batches
            )  # fmt: skip
            names.add(model.activations_model.identifier)
            (folder / 'lcn_jax_lc').unlink()
        assert len(names) == 2

    def test_a_run_sees_images_that_move(self, registry, networks, runs, folder, shown, images):
        (folder / 'lcn_jax_lc').rmdir()
        (folder / 'lcn_jax_lc').symlink_to(runs['lc'])
        model = registry['lcn_jax_lc']()
        model.start_recording('IT', time_bins=[(70, 170)])
        seen = model.look_at(shown, number_of_trials=2, require_variance=True)
        order = [*images[:6], images[0]]
        moved = [np.concatenate([image[:, :1], image[:, :-1]], axis=1) for image in order]
        expected = features.extract(networks['lc'], [*order, *moved], ['stage2_block1'])
        np.testing.assert_allclose(
            seen, expected['stage2_block1'].reshape(14, -1), rtol=1e-5, atol=1e-6
        )

    def test_brain_score_may_rename_it(self, registry, folder):
        """As it does where it chooses the layers."""
        model = registry['lcn_jax_lc']().activations_model
        model.identifier += '-pca_1000'
        assert model._extractor.identifier.endswith('-pca_1000')

    def test_the_folder_must_be_named(self, registry, monkeypatch):
        monkeypatch.delenv('LCN_BRAIN_SCORE_DIR', raising=False)
        with pytest.raises(RuntimeError, match='LCN_BRAIN_SCORE_DIR must name the folder'):
            registry['lcn_jax_lc']()


def test_the_core_needs_no_scikit_learn():
    code = 'import lcn_jax.brain.features, lcn_jax.brain.predictivity, lcn_jax.brain.behaviour, sys'
    subprocess.run(
        [sys.executable, '-c', f'{code}; sys.exit("sklearn" in sys.modules)'],
        check=True,
        cwd=tiny_runs.ROOT,
    )
