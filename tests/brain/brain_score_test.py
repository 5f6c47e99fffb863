"""The experiment brain_score, with simulated neurons that read a known layer."""

import json
import zipfile

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_archives import encode
from tiny_networks import call, make_config, make_run, network_of, noisy

from experiments.reports import brain as brain_report
from experiments.reports import brain_networks, brain_picture
from lcn_jax.brain import assembly, features, stimuli
from lcn_jax.errors import UsageError
from lcn_jax.files import to_json

rng = np.random.default_rng


@pytest.fixture(scope='module')
def session(networks, tmp_path_factory):
    """A folder with images.zip and neurons.npz; the neurons read a block of the first network."""
    folder = tmp_path_factory.mktemp('session')
    shown = rng(5).integers(0, 256, (160, 8, 8, 3), np.uint8)
    with zipfile.ZipFile(folder / 'images.zip', 'w') as archive:
        for number, image in enumerate(shown):
            archive.writestr(f'{number}.png', encode(image))
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


class Pixels(nn.Module):
    """A model without parameters that sows the named functions of its images."""

    names: tuple[str, ...]

    @nn.compact
    def __call__(self, images, train):
        activations = {
            'pixels': images,
            'half': images[:, :4],
            'narrow': images[:, :2, :4],
            'constant': jnp.ones_like(images),
            'infinite': images.at[3].set(jnp.inf),
        }
        for name in self.names:
            self.sow('intermediates', name, activations[name])
        return images.mean((1, 2))

    def network(self, channels=3):
        return network_of(self, {}, (8, 8, channels))


class TestMarks:
    """Layers, networks and regions that cannot be scored are marked, the others are scored."""

    @pytest.mark.slow
    def test_layers_networks_and_regions(self, capsys):
        """Neurons read all pixels; one in MT was not shown the last image."""
        shown = list(rng(0).integers(0, 256, (120, 8, 8, 3), np.uint8))
        signal = np.reshape(shown, (120, -1)) @ rng(1).normal(size=(192, 8))
        responses = noisy(signal, 0.9, repetitions=4, seed=2)
        responses[-1, 7] = np.nan
        neurons = assembly.Assembly(responses, None, None, np.array(['V4'] * 6 + ['MT'] * 2))
        faulty = Pixels(('infinite', 'half', 'constant', 'pixels', 'narrow')).network()
        networks = {
            'dead': Pixels(('constant', 'narrow')).network(),
            'faulty': faulty,
            'silent': Pixels(()).network(),
            'four': Pixels(('pixels',)).network(channels=4),
            'again': faulty,
        }
        regions = brain_report.compare_regions(neurons, networks, shown)
        assert list(regions) == ['MT', 'V4']
        assert set(regions['MT']) == {'error'} and 'has 0 response' in regions['MT']['error']

        runs = regions['V4']['runs']
        assert list(runs) == list(networks)
        layers = runs['faulty']['layers']
        assert list(layers) == list(faulty.model.names)
        assert layers['infinite'] == {'error': 'not finite for 2 of 120 images.'}
        for name, units in (('constant', 0), ('narrow', 24)):
            assert set(layers[name]) == {'error'}
            assert layers[name]['error'].startswith(f'only {units} units vary independently')
        assert layers['pixels']['score'] > layers['half']['score'] > 0.1
        assert runs['faulty']['best']['layer'] == 'pixels'

        assert 'best' not in runs['dead']
        assert runs['dead']['error'].startswith('none of its layers can be scored; constant: only')
        assert runs['silent']['error'].startswith('its model sows no activations')
        assert runs['four']['error'].startswith('the network takes images of 4 channels')
        assert runs['again']['best']['reference'] == 'faulty'
        assert runs['again']['best']['difference'] == 0

        printed = capsys.readouterr().out.splitlines()
        for start in (
            'infinite                             not scored: not finite for 2 of',
            'dead is not scored: none of',
            'MT is not scored: a neuron has 0',
        ):
            assert any(line.startswith(start) for line in printed), start

        assert list(regions['V4']['networks']) == ['faulty', 'again']
        axes = brain_picture.plot(regions).axes[0]
        lines = {container.get_label(): container.lines[0] for container in axes.containers}
        assert list(lines) == ['faulty', 'again']
        drawn = np.isfinite(lines['faulty'].get_ydata())
        assert drawn.tolist() == ['error' not in layer for layer in layers.values()]


class TestExperiment:
    @pytest.mark.slow
    def test_finds_the_block(self, runs, session, tmp_path):
        """A run that cannot be loaded is named, and the others are scored: lc has two seeds."""
        config = make_config('lc')
        config.seed = 1
        other = make_run(tmp_path / 'lc-1', config, seed=2)
        for run, top1 in zip((*runs.values(), other), (0.8, 0.5, 0.6)):
            (run / 'metrics.jsonl').write_text(to_json({'step': 3, 'test_top1': top1}))
        workdirs = [*map(str, runs.values()), str(other), str(tmp_path / 'gone')]
        printed, errors = call(
            'brain_score',
            '--workdir=' + ','.join(workdirs),
            f'--assembly={session}/neurons.npz',
            f'--images={session}/images.zip',
            '--group=kind',
            f'--out={tmp_path}',
            status=1,
        )
        assert f'cannot be loaded and are not in {tmp_path}: gone: ' in errors
        report = json.loads((tmp_path / 'brain_score.json').read_text())
        assert report['workdirs'] == dict(zip(('conv', 'lc', 'lc-1', 'gone'), workdirs))
        assert list(report['regions']) == ['IT', 'V4']
        for name, neurons in (('V4', 8), ('IT', 4)):
            region = report['regions'][name]
            assert (region['neurons'], region['images'], region['repetitions']) == (neurons, 160, 4)
            assert 0.8 < region['ceiling_interval'][0] < region['ceiling_interval'][1] < 1
            conv, other, seed, gone = region['runs'].values()
            assert 'holds no run' in gone['error']
            assert conv['best']['layer'] == 'stage2_block1' and conv['step'] == 3
            assert 'difference' not in conv['best']
            difference = conv['best']['score'] - other['best']['score']
            assert other['best']['difference'] == pytest.approx(-difference)
            scores = {layer: record['score'] for layer, record in conv['layers'].items()}
            assert max(scores, key=scores.get) == 'stage2_block1'
            assert f'{scores["stage2_block1"]:.3f}' in printed
            lc = region['networks']['lc']
            assert lc['runs'] == {'0': 'lc', '1': 'lc-1'}
            both = [other['best']['score'], seed['best']['score']]
            assert lc['by_seed'] == dict(zip('01', both))
            assert lc['difference']['mean'] == other['best']['difference']  # conv has one seed
        low, high = report['regions']['V4']['runs']['lc']['best']['difference_interval']
        assert low < high < 0
        table = (tmp_path / 'brain_score.md').read_text()
        assert table == brain_networks.markdown(report) and table in printed
        assert '| LC | 55.0 ± 7.1 |' in table
        assert (tmp_path / 'brain_score.png').read_bytes().startswith(b'\x89PNG')

    @pytest.mark.slow
    def test_nothing_can_be_scored(self, runs, session, tmp_path):
        """30 images are too few for 25 components."""
        with np.load(session / 'neurons.npz') as neurons:
            few = {name: neurons[name][:30] for name in ('responses', 'stimulus_id')}
        np.savez(tmp_path / 'few.npz', **few)
        _, errors = call(
            'brain_score',
            f'--workdir={runs["conv"]}',
            f'--assembly={tmp_path}/few.npz',
            f'--images={session}/images.zip',
            f'--out={tmp_path}/out',
            status=1,
        )
        assert errors.splitlines()[-1].startswith(
            'error: nothing can be scored: conv: none of its layers can be scored; stage1_block1: '
            'only '
        )
        assert not (tmp_path / 'out/brain_score.json').exists()

    def test_numbers_of_images_and_responses_must_agree(self, session):
        neurons = assembly.Assembly(np.zeros((5, 2, 3)), None, None, np.array(['a', 'a']))
        with pytest.raises(UsageError, match=r'there are 160 images .* responses to 5; .* --axes='):
            stimuli.shown(str(session / 'images.zip'), neurons)
