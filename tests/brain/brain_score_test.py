"""The experiment brain_score, on neurons that read a known block."""

import json
import zipfile

import numpy as np
import pytest
from tiny_networks import call, noisy, png

from lcn_jax.brain import assembly, features, stimuli
from lcn_jax.errors import UsageError

rng = np.random.default_rng


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
