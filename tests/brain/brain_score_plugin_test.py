"""The plugin for Brain-Score, with a stand-in for Brain-Score."""

import collections
import hashlib
import re
import sys
import types

import numpy as np
import pytest
from tiny_archives import encode
from tiny_networks import LAYERS, call

from lcn_jax.brain import features

OTHER_BATCHES = 1e-5, 1e-6  # relative and absolute error of activations computed in other batches


class StandIn:
    """Does with a model what Brain-Score 2.4.2 does, which cannot be installed beside lcn_jax.

    Its arrays have named axes and coordinates, which are left out here.
    """

    class Stimuli(dict):
        """In Brain-Score, a table with these columns, and the paths of the files."""

        identifier = 'shown'

        def get_stimulus(self, name):
            return self['paths'][name]

    class Extractor:
        kept = {}  # on disk in Brain-Score

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
            """(images, units of all layers); each file is shown once, and the results are kept."""
            if self.trials > 1:
                return self.run(stimuli_paths, layers)
            once = list(dict.fromkeys(stimuli_paths))
            key = self.identifier, stimuli_identifier, tuple(layers)
            if stimuli_identifier is None or key not in self.kept:
                self.kept[key] = self.run(once, layers)
            return self.kept[key][[once.index(path) for path in stimuli_paths]]

        def run(self, paths, layers):
            """In padded batches, trial after trial."""
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
            """Shifts an image (C, H, W) to the right."""
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


def regions(lower, higher):
    """The layers of V1 and V2, and of V4 and IT."""
    return dict.fromkeys(('V1', 'V2'), lower) | dict.fromkeys(('V4', 'IT'), higher)


class TestPlugin:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv('LCN_BRAIN_SCORE_DIR', str(tmp_path / 'models'))
        (tmp_path / 'models/lcn_jax_lc').mkdir(parents=True)
        return tmp_path / 'models'

    @pytest.fixture
    def shown(self, images, tmp_path):
        """All images but the last; the first is shown twice."""
        paths = {}
        for number, image in enumerate(images):
            paths[f'id{number}'] = tmp_path / f'shown{number}.png'
            paths[f'id{number}'].write_bytes(encode(image))
        return StandIn.Stimuli(stimulus_id=[*list(paths)[:-1], 'id0'], paths=paths)

    def save(self, path, shown, part, **layers):
        """A file with the layers of some of the images."""
        files = [shown['paths'][name].read_bytes() for name in list(shown['paths'])[part]]
        digests = [hashlib.sha256(file).hexdigest() for file in files]
        np.savez(path, digest=digests, **{name: x[part] for name, x in layers.items()})

    def record(self, model, region, shown):
        model.start_recording(region, time_bins=[(70, 170)])
        return model.look_at(shown, number_of_trials=5)

    def check(self, seen, values, rtol=0.0, atol=0.0):
        """The activations of the images that are shown, in their order."""
        expected = values.reshape(len(values), -1)[[0, 1, 2, 3, 4, 5, 0]]
        np.testing.assert_allclose(seen, expected, rtol, atol)

    @pytest.mark.slow
    def test_features_are_exchanged_as_files(self, registry, found, runs, folder, shown):
        with pytest.raises(RuntimeError, match='features of 6 images are missing') as stopped:
            self.record(registry['lcn_jax_lc'](), 'V4', shown)
        missing = folder / 'missing_images'
        assert str(missing) in str(stopped.value) and len(list(missing.iterdir())) == 6
        path = folder / 'lcn_jax_lc/first.npz'
        (missing / 'broken.png').write_bytes(encode(np.zeros((8, 8, 3), np.uint8))[:-30])
        printed, errors = call(
            'features', f'--workdir={runs["lc"]}', f'--images={missing}', f'--out={path}', status=1
        )
        assert '4 layers of 6 images' in printed
        assert re.search(r'not in .*first\.npz: broken\.png is not a whole image', errors)
        model = registry['lcn_jax_lc']()
        assert model.identifier == 'lcn_jax_lc'
        assert model.layers == [*LAYERS[1:]]
        assert model.region_layer_map == regions('stage1_block1', 'stage2_block1')
        assert model.activations_model._extractor.degrees == 8
        for region, layer in (('V1', 'stage1_block1'), ('IT', 'stage2_block1')):
            self.check(self.record(model, region, shown), found['lc'][layer], *OTHER_BATCHES)
        for task, layer in (('label', 'logits'), ('probabilities', 'pooled')):
            model.start_task(task, shown)
            seen = model.look_at(shown, number_of_trials=2)
            self.check(seen, found['lc'][layer], *OTHER_BATCHES)

    def test_blocks_of_a_users_model(self, registry, found, folder, shown):
        """Blocks are the layers between 'stem' and 'pooled', whatever their names."""
        layers = dict(zip(('stem', 'first', 'deep/out', 'pooled', 'logits'), found['lc'].values()))
        self.save(folder / 'lcn_jax_lc/a.npz', shown, slice(0, 6), **layers)
        model = registry['lcn_jax_lc']()
        assert model.region_layer_map == regions('first', 'deep/out')
        self.check(self.record(model, 'IT', shown), layers['deep/out'])

    def test_several_files_hold_more_images(self, registry, found, folder, shown):
        layer = found['lc']['stage1_block1']
        for part in (slice(0, 3), slice(3, 6)):
            path = folder / f'lcn_jax_lc/{part.start}.npz'
            self.save(path, shown, part, stage1_block1=layer)
        self.check(self.record(registry['lcn_jax_lc'](), 'IT', shown), layer)

    def test_activations_cached_from_other_files_are_not_used(self, registry, found, folder, shown):
        """Brain-Score keeps activations under the name of the model."""
        names = set()
        for kind in ('conv', 'lc', 'conv'):
            layer = found[kind]['stage1_block1']
            self.save(folder / 'lcn_jax_lc/a.npz', shown, slice(0, 6), stage1_block1=layer)
            model = registry['lcn_jax_lc']()
            self.check(self.record(model, 'V1', shown), layer)
            names.add(model.activations_model.identifier)
        assert len(names) == len(StandIn.Extractor.kept) == 2
        assert all(name.startswith('lcn_jax_lc-') for name in names)

    def test_missing_layers_and_images_are_named(self, registry, found, folder, shown):
        layer = found['lc']['stage1_block1']
        self.save(folder / 'lcn_jax_lc/a.npz', shown, slice(0, 6), stage1_block1=layer)
        model = registry['lcn_jax_lc']()
        with pytest.raises(RuntimeError, match='have stage1_block1 but no pooled'):
            model.start_task('probabilities', shown)
        with pytest.raises(RuntimeError, match=r'from trial to trial, .* needs a run'):
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
            seen = self.record(model, 'IT', shown)
            self.check(seen, found[kind]['stage2_block1'], *OTHER_BATCHES)
            names.add(model.activations_model.identifier)
            (folder / 'lcn_jax_lc').unlink()
        assert len(names) == 2

    def test_a_run_sees_shifted_images(self, registry, networks, runs, folder, shown, images):
        (folder / 'lcn_jax_lc').rmdir()
        (folder / 'lcn_jax_lc').symlink_to(runs['lc'])
        model = registry['lcn_jax_lc']()
        model.start_recording('IT', time_bins=[(70, 170)])
        seen = model.look_at(shown, number_of_trials=2, require_variance=True)
        order = [*images[:6], images[0]]
        moved = [np.concatenate([image[:, :1], image[:, :-1]], axis=1) for image in order]
        expected = features.extract(networks['lc'], [*order, *moved], ['stage2_block1'])
        np.testing.assert_allclose(seen, expected['stage2_block1'].reshape(14, -1), *OTHER_BATCHES)

    def test_brain_score_may_rename_it(self, registry, folder):
        """It does so while it chooses layers."""
        model = registry['lcn_jax_lc']().activations_model
        model.identifier += '-pca_1000'
        assert model._extractor.identifier.endswith('-pca_1000')

    def test_the_folder_must_be_named(self, registry, monkeypatch):
        monkeypatch.delenv('LCN_BRAIN_SCORE_DIR', raising=False)
        with pytest.raises(RuntimeError, match='LCN_BRAIN_SCORE_DIR must name the folder'):
            registry['lcn_jax_lc']()
