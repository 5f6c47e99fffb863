"""Copies of a layer in one array, along any of its axes: each is treated as if it were alone.

There are as many of them as the layer has rows and columns, so that sizes do not tell the axes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcn_jax
from lcn_jax import LocalConv, sleep
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.local_parameters import LocalParameter
from lcn_jax.learning import penalties
from lcn_jax.sleep import similarity
from lcn_jax.training import optimizer

MEMBERS, KEY = 6, jax.random.key(0)
GRID = Grid.create((6, 6), 3)
SPLIT = dict(split_rngs={'params': True})
HEBBIAN = dict(gamma=0.1, learning_rate=0.05, steps=20, patterns_per_step=16, momentum=0.0)


class Vmapped(nn.Module):
    axis: int
    local_bias: bool = True

    @nn.compact
    def __call__(self, x):
        lifted = nn.vmap(
            LocalConv, variable_axes={'params': self.axis}, in_axes=None, axis_size=MEMBERS, **SPLIT
        )
        return lifted(2, (3, 3), local_bias=self.local_bias, name='conv')(x).mean(0)


class Step(nn.Module):
    local_bias: bool

    @nn.compact
    def __call__(self, x, _):
        return LocalConv(2, (3, 3), local_bias=self.local_bias, name='conv')(x), None


class Scanned(nn.Module):
    axis: int
    local_bias: bool = True

    @nn.compact
    def __call__(self, x):
        lifted = nn.scan(Step, variable_axes={'params': self.axis}, length=MEMBERS, **SPLIT)
        return lifted(self.local_bias, name='layers')(x, None)[0]


CASES = {
    'vmap, axis 0': Vmapped(0),
    'vmap, axis 1': Vmapped(1),
    'vmap, axis 1, bias of features': Vmapped(1, local_bias=False),
    'vmap, axis 2': Vmapped(2),
    'vmap, last axis': Vmapped(-1),
    'vmap, last axis, bias of features': Vmapped(-1, local_bias=False),
    'scan, axis 1': Scanned(1),
    'scan, axis 1, bias of features': Scanned(1, local_bias=False),
}
each_case = pytest.mark.parametrize('model', CASES.values(), ids=CASES)


def params_and_grids(model):
    """Kernels and biases whose numbers all differ."""
    x, random = np.zeros((1, 6, 6, 2), np.float32), np.random.RandomState(1)
    shapes = jax.eval_shape(model.init, KEY, x)['params']
    params = jax.tree.map(lambda a: 1 + random.randn(*a.shape).astype(np.float32), shapes)
    return params, lcn_jax.grids(model, x)


def members(params, model):
    return [
        jax.tree.map(lambda a, number=number: np.take(np.asarray(a), number, model.axis), params)
        for number in range(MEMBERS)
    ]


def grids_of_one(model):
    local = {'kernel': LocalParameter(GRID)}
    if model.local_bias:
        local['bias'] = LocalParameter(GRID, per_neuron=True)
    return {'layers': {'conv': local}} if isinstance(model, Scanned) else {'conv': local}


@pytest.mark.parametrize('rule, options', [('mean', {}), ('hebbian', HEBBIAN)])
@each_case
def test_each_member_sleeps_as_it_would_alone(model, rule, options):
    params, grids = params_and_grids(model)
    rule = sleep.resolve(rule, {'border': 'include', **options})

    @jax.jit
    def asleep(params, of_members):
        alone = [sleep.share(one, grids_of_one(model), rule, KEY) for one in of_members]
        return sleep.share(params, grids, rule, KEY), alone

    together, alone = jax.device_get(asleep(params, members(params, model)))
    assert jax.tree.map(jnp.shape, together) == jax.tree.map(jnp.shape, params)
    for before, after, by_itself in zip(members(params, model), members(together, model), alone):
        for (path, got), want in zip(jax.tree.leaves_with_path(after), jax.tree.leaves(by_itself)):
            np.testing.assert_allclose(got, want, atol=1e-5, err_msg=str(path))
        (was, *_), (now, *_) = map(kernels_and_biases, (before, after))
        assert np.abs(was - now).max() > 0.1


def test_copies_of_copies_have_two_axes():
    class Nested(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = nn.vmap(
                LocalConv, variable_axes={'params': 0}, in_axes=None, axis_size=MEMBERS, **SPLIT
            )
            outer = nn.vmap(inner, variable_axes={'params': 2}, in_axes=None, axis_size=3, **SPLIT)
            return outer(2, (3, 3), name='conv')(x)

    found = lcn_jax.grids(Nested(), (6, 6, 2))['conv']
    assert found == {'kernel': LocalParameter(GRID, ensemble=(0, 2))}


def kernels_and_biases(params):
    layer = params.get('layers', params)['conv']
    return layer['kernel'], layer['bias']


@pytest.mark.parametrize('measure', [similarity.layer_snrs, similarity.layer_deviations])
@each_case
def test_each_member_is_measured_alone(model, measure):
    params, grids = params_and_grids(model)

    @jax.jit
    def measured(params, of_members):
        alone = [measure(one, grids_of_one(model), 'include') for one in of_members]
        return measure(params, grids, 'include'), alone

    found, alone = measured(params, members(params, model))
    (found,) = found.values()
    np.testing.assert_allclose(found, [of_one.popitem()[1] for of_one in alone], rtol=1e-5)
    assert np.ptp(found) > 1e-3


@pytest.mark.parametrize('name', penalties.PENALTIES)
@each_case
def test_penalties_of_members_add_up(model, name):
    params, grids = params_and_grids(model)
    penalty = penalties.resolve(name, {'border': 'include'})

    @jax.jit
    def totals(params, of_members):
        alone = [penalties.total(one, grids_of_one(model), penalty) for one in of_members]
        without = [penalty(kernels_and_biases(one)[0], None, GRID) for one in of_members]
        return penalties.total(params, grids, penalty), sum(alone), sum(without)

    found, alone, without = totals(params, members(params, model))
    np.testing.assert_allclose(found, alone, rtol=1e-5)
    assert (np.abs(found - without) > 1e-3) == (name == 'smoothness')  # which looks at the bias


@each_case
def test_gradients_of_each_member_are_multiplied_by_the_sizes_of_its_pools(model):
    params, grids = params_and_grids(model)
    scale = optimizer.times_pool_size(grids, 'exclude')
    of_one = optimizer.times_pool_size(grids_of_one(model), 'exclude')

    @jax.jit
    def updates(params, of_members):
        alone = [of_one.update(one, of_one.init(one))[0] for one in of_members]
        return scale.update(params, scale.init(params))[0], alone

    scaled, alone = jax.device_get(updates(params, members(params, model)))
    jax.tree.map(np.testing.assert_array_equal, members(scaled, model), alone)
