"""Models of a user's own: what they may have, and one line for what they must not."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_runs
from reference import compiled

from lcn_jax import LocalConv
from lcn_jax.data.batches import BatchSpec, Pixels
from lcn_jax.errors import UsageError
from lcn_jax.training import cost, parallel, wake
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.metrics import Sums
from lcn_jax.training.state import of_variables

UNITS = 64


class Own(nn.Module):
    """A layer and a readout, and what `has` names."""

    classes: int
    has: str = ''

    @nn.compact
    def __call__(self, images, train):
        he_normal = nn.initializers.he_normal()
        boxed = nn.with_partitioning(he_normal, (None,) * 6) if self.has == 'box' else he_normal
        x = nn.relu(LocalConv(4, 3, strides=2, kernel_init=boxed, name='conv')(images))
        if self.has == 'counter':
            self.variable('counters', 'calls', lambda: jnp.zeros(()))
        if self.has != 'no pooling':
            x = x.mean((1, 2))
        if self.has == 'noise':
            x += jax.random.normal(self.make_rng('noise'), x.shape)
        x = nn.Dropout(0.5, deterministic=not train or self.has != 'dropout')(x)
        logits = nn.Dense(self.classes - (self.has == 'a class too few'), name='logits')(x)
        return (logits, x) if self.has == 'two results' else logits


class WithoutTrain(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(10)(LocalConv(4, 3)(images).mean((1, 2)))


class WithKeywords(nn.Module):
    @nn.compact
    def __call__(self, images, **how):
        return Own(10, name='own')(images, how['train'])


def own(has):
    return lambda config, classes: Own(classes, has)


dropout, box, noise, counter = map(own, ('dropout', 'box', 'noise', 'counter'))
no_pooling, a_class_too_few = own('no pooling'), own('a class too few')
two_results = own('two results')


def without_train(config, classes):
    return WithoutTrain()


def with_keywords(config, classes):
    return WithKeywords()


def nothing(config, classes):
    return None


def one_argument(config):
    return WithoutTrain()


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp('data'))


@pytest.fixture
def config(data_dir):
    return tiny_runs.one_epoch(data_dir)


def named(config, name):
    config.model.name = f'{__name__}:{name}'
    return config


@pytest.mark.parametrize(
    'name, reason',
    [
        ('without_train', r'does not take train'),
        ('nothing', r'is a NoneType, not a Flax Linen module'),
        ('noise', r'draws random numbers when it is called with train=False'),
        ('counter', r"has variables in \['counters'\], but only params and batch_stats are kept"),
        ('no_pooling', r'returns \(1, 4, 4, 10\) for one image, not logits of shape \(1, 10\)'),
        ('a_class_too_few', r'returns \(1, 9\) for one image'),
        ('two_results', r'returns \(\(1, 10\), \(1, 4\)\) for one image'),
    ],
)
def test_a_model_that_cannot_be_trained_is_one_line(name, reason, config):
    with pytest.raises(UsageError, match=f'the model of {__name__}:{name} {reason}') as error:
        Experiment.create(named(config, name))
    assert str(error.value).endswith('see docs/models.md.') and '\n' not in str(error.value)


def test_train_may_be_one_of_any_keywords(config):
    found = Experiment.create(named(config, 'with_keywords'))
    assert found.network.grids['own']['conv']['kernel'].output_size == (4, 4)


def test_local_layers_of_a_convolutional_network_are_refused(config):
    config = named(config, 'dropout')
    config.connectivity, config.sleep.rule = 'conv', 'none'
    with pytest.raises(UsageError, match=r'conv/kernel of .*:dropout is local, but .*=conv: set'):
        Experiment.create(config)


def test_a_function_with_other_arguments_is_one_line(config):
    with pytest.raises(UsageError, match=r'one_argument. cannot take 2 arguments: too many'):
        Experiment.create(named(config, 'one_argument'))


class Drops(nn.Module):
    """Its 'batch_stats' say which of its units were dropped: 0, and 2 for the others."""

    @nn.compact
    def __call__(self, images, train):
        dropout = nn.Dropout(0.5, rng_collection='any name', deterministic=not train)
        kept = dropout(jnp.ones((UNITS,)))
        self.variable('batch_stats', 'kept', lambda: jnp.ones((UNITS,))).value = kept
        return nn.Dense(10)(images.mean((1, 2)))


def test_dropout_differs_between_steps_and_devices_and_repeats_with_the_key():
    """Devices average their batch statistics: if all dropped the same they would be 0 and 2."""
    model, optimizer = Drops(), optax.sgd(0.1)

    @compiled
    def initial(key):
        return of_variables(model.init(key, jnp.zeros((1, 8, 8, 1)), train=False), optimizer, {})

    start = parallel.replicate(initial(jax.random.key(0)))
    learner = wake.Learner(model, optimizer, batch=BatchSpec(batch_size=8, size=8))
    step = parallel.per_device(
        functools.partial(wake.step, learner=learner), (0, 0, None, None, None)
    )
    pixels = Pixels(np.zeros((8, 8, 8, 1), np.uint8), np.zeros(8, np.int32), *np.ones((2, 1)))

    def kept(state):
        return np.asarray(parallel.first(state.batch_stats)['kept'])

    sums = parallel.replicate(Sums.zero())
    arguments = pixels, np.arange(8), jax.random.key(1)
    first, _ = step(start, sums, *arguments)
    second, _ = step(first, sums, *arguments)
    again, _ = step(first, sums, *arguments)
    other, _ = step(first, sums, *arguments[:2], jax.random.key(2))
    assert 0.8 < kept(first).mean() < 1.2
    assert len(set(kept(first).tolist())) > 4  # of nine possible means over eight devices
    assert (kept(first) != kept(second)).any() and (kept(second) != kept(other)).any()
    chex.assert_trees_all_equal(second, again)


class Crash(Exception):
    pass


@pytest.fixture(scope='module')
def trained(data_dir, tmp_path_factory):
    """name of a model -> the workdir and the last record of a run."""

    @functools.cache
    def of_name(name):
        workdir = tmp_path_factory.mktemp(name)
        return workdir, tiny_runs.train(named(tiny_runs.one_epoch(data_dir), name), workdir)

    return of_name


@pytest.mark.slow
@pytest.mark.parametrize('name', ['dropout', 'box'])
def test_a_run_resumes_bit_for_bit(name, config, trained, tmp_path):
    uninterrupted, _ = trained(name)
    named(config, name)

    def crash(record):
        if record['step'] >= 28:
            raise Crash

    with pytest.raises(Crash):
        tiny_runs.train(config, tmp_path / 'crashed', crash)
    tiny_runs.train(config, tmp_path / 'crashed')
    tiny_runs.assert_same(tmp_path / 'crashed', uninterrupted)


@pytest.mark.slow
def test_dropout_is_for_training_alone(config, trained):
    """Runs with and without it differ, and an evaluation draws nothing."""
    (workdir, dropout), (_, box) = trained('dropout'), trained('box')
    assert dropout['train_loss'] != box['train_loss']
    experiment = tiny_runs.experiment(named(config, 'dropout'))
    model, state = experiment.network.model, tiny_runs.snapshot(workdir).state
    apply = compiled(functools.partial(model.apply, train=False))
    logits = [apply(state.variables, np.ones((1, 8, 8, 1), np.float32)) for _ in range(2)]
    np.testing.assert_array_equal(*logits)


def test_boxes_around_parameters_change_no_cost():
    plain, boxed = (cost.layers(Own(10, has), (8, 8, 1)) for has in ('', 'box'))
    assert plain == boxed and plain[0].kernel == (4, 4, 3, 3, 1, 4)
