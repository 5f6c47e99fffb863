"""Experiments: built from a config alone, with one's own models, and from old workdirs."""

import json

import flax.linen as nn
import jax
import numpy as np
import pytest
import tiny_runs

from lcn_jax import LocalConv, sleep
from lcn_jax.errors import UsageError
from lcn_jax.training import checkpoint, parallel
from lcn_jax.training import config as configs
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.train import train_and_evaluate


class Nested(nn.Module):
    """A model without BatchNorm, with a locally connected layer inside another module."""

    width: int
    num_classes: int
    local: bool

    @nn.compact
    def __call__(self, images, train):
        conv = LocalConv if self.local else nn.Conv
        images = images * self.param('gain', nn.initializers.ones, (1,))
        x = nn.relu(Inner(self.width, conv, name='inner')(images))
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


class Inner(nn.Module):
    features: int
    conv: type

    @nn.compact
    def __call__(self, x):
        return self.conv(self.features, (3, 3), name='conv')(x)


def nested(config, num_classes):
    return Nested(config.model.width, num_classes, config.connectivity == 'lc')


class Ensemble(nn.Module):
    """Two locally connected layers in one, side by side."""

    num_classes: int

    @nn.compact
    def __call__(self, images, train):
        lifted = nn.vmap(
            LocalConv, in_axes=None, out_axes=0, axis_size=2,
            variable_axes={'params': 0}, split_rngs={'params': True},
        )  # fmt: skip
        x = nn.relu(lifted(3, (3, 3), name='conv')(images))
        return nn.Dense(self.num_classes)(x.mean((0, 2, 3)))


def ensemble(config, num_classes):
    return Ensemble(num_classes)


def own_model(**changes):
    config = tiny_runs.get_config('resident')
    config.model.name = f'{__name__}:nested'
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.slow
def test_a_model_of_ones_own_trains_and_sleeps(tmp_path):
    steps = {'train_images': 240, 'epochs': 1}
    config = own_model(**steps, **{'sleep.rule': 'mean', 'sleep.every': 10})
    config.data_dir = str(tmp_path / 'data')
    experiment = Experiment.create(config)
    assert list(experiment.network.grids) == ['inner']
    result = train_and_evaluate(config, str(tmp_path / 'run'), experiment=experiment)
    assert result['step'] == 10 and result['parameters'] == experiment.network.parameters
    with checkpoint.Checkpoints(str(tmp_path / 'run'), read_only=True) as checkpoints:
        params = checkpoints.restore(10, experiment.shapes).state.params
    kernel = params['inner']['conv']['kernel']  # training ended in a sleep
    grid = experiment.network.grids['inner']['conv']['kernel']
    np.testing.assert_allclose(kernel, sleep.mean(kernel, grid, None, border='include'), atol=1e-6)
    assert np.abs(kernel[0, 0] - kernel[0, 1]).max() > 0.01  # of another pool


def test_a_model_without_local_layers_is_refused_where_it_should_have_some():
    config = own_model()
    config.model.name = f'{__name__}:never_local'
    with pytest.raises(UsageError, match='no layer of the network is locally connected'):
        Experiment.create(config)


def never_local(config, num_classes):
    return Nested(config.model.width, num_classes, False)


@pytest.mark.parametrize('name', ['no_such_module:net', 'tiny_runs:no_such', 'resnet19', 'a:'])
def test_a_model_that_is_not_there_is_one_line(name):
    config = own_model()
    config.model.name = name
    with pytest.raises(UsageError, match=f'unknown model {name!r}.*known: resnet') as error:
        Experiment.create(config)
    assert '\n' not in str(error.value)


def test_an_experiment_needs_no_data_and_no_seed():
    config = tiny_runs.get_config('resident')
    config.data_dir = '/no/such/folder'
    experiment = Experiment.create(config)
    config.seed = 5
    assert experiment.config == configs.without_seed(config)
    state = parallel.first(experiment.init(parallel.replicate(jax.random.key(0))))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == jax.tree.map(
        lambda a: (a.shape, a.dtype), experiment.shapes
    )


@pytest.mark.slow
def test_layers_under_vmap_train_and_sleep(tmp_path):
    config = tiny_runs.get_config('resident')
    configs.apply_kind(config, 'lc_mean_joined')
    config.model.name = f'{__name__}:ensemble'
    config.data_dir, config.epochs = str(tmp_path / 'data'), 1
    records = []
    train_and_evaluate(config, str(tmp_path / 'run'), records.append)
    asleep = [record for record in records if 'weight_deviation_before_sleep' in record]
    assert asleep and all(record['weight_deviation'] < 1e-5 for record in asleep)
    assert all(1e-3 < record['weight_deviation_before_sleep'] < 1 for record in asleep)


def test_programs_are_made_once():
    experiment = Experiment.create(tiny_runs.get_config('resident'))
    assert experiment.wake is experiment.wake
    assert experiment.sleep is experiment.sleep


def test_a_workdir_of_the_version_before_belongs_to_the_same_config(tmp_path):
    config = tiny_runs.get_config('resident')
    before = json.loads(config.to_json_best_effort())
    del before['model']['name']  # a field that did not exist
    (tmp_path / 'config.json').write_text(json.dumps(before))
    checkpoint.check_same(str(tmp_path), config)
    assert configs.without_seed(checkpoint.read_config(str(tmp_path))) == configs.without_seed(
        config
    )
    config.model.name = 'tiny_runs:other'
    with pytest.raises(UsageError, match=r'model.name is resnet there, tiny_runs:other here'):
        checkpoint.check_same(str(tmp_path), config)


@pytest.mark.slow
def test_a_workdir_at_a_url_that_cannot_be_opened_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny_runs.get_config('resident')
    config.data_dir = str(tmp_path / 'data')
    for url in ('ftp://host/run', 's3://bucket/run'):
        monkeypatch.setitem(__import__('sys').modules, 's3fs', None)
        with pytest.raises(UsageError, match=f'cannot open {url}'):
            train_and_evaluate(config, url, lambda record: pytest.fail('trained'))
    assert {path.name for path in tmp_path.iterdir()} <= {'data'}
