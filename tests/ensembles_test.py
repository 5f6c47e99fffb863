"""Copies of a layer in one array, along any of its axes: each is treated as if it were alone.

There are as many of them as the layer has rows and columns, so that sizes do not tell the axes.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import HEBBIAN, compiled

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
RULES = {'mean': {}, 'hebbian': HEBBIAN}
MEASURES = similarity.layer_snrs, similarity.layer_deviations


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


def treated(params, grids):
    """All that treats each member by itself, by name."""
    scale = optimizer.times_pool_size(grids, 'exclude')
    found = {'gradients': scale.update(params, scale.init(params))[0]}
    for rule, options in RULES.items():
        resolved = sleep.resolve(rule, {'border': 'include', **options})
        found[rule] = sleep.share(params, grids, resolved, KEY)
    for measure in MEASURES:
        (found[measure.__name__],) = measure(params, grids, 'include').values()
    for name in penalties.PENALTIES:
        penalty = penalties.resolve(name, {'border': 'include'})
        found[name] = penalties.total(params, grids, penalty)
    return found


@functools.cache
def of_one(kind, local_bias):
    """The program that treats a single member of such a model."""
    grids = grids_of_one(kind(0, local_bias))
    return compiled(lambda params: treated(params, grids))


@functools.cache
def together_and_alone(model):
    """What becomes of an ensemble, and of each of its members alone."""
    params, grids = params_and_grids(model)
    one = of_one(type(model), model.local_bias)
    alone = [one(member) for member in members(params, model)]
    return compiled(lambda params: treated(params, grids))(params), alone


@pytest.mark.parametrize('rule', RULES)
@each_case
def test_each_member_sleeps_as_it_would_alone(model, rule):
    params, _ = params_and_grids(model)
    together, alone = together_and_alone(model)
    slept = together[rule]
    assert jax.tree.map(jnp.shape, slept) == jax.tree.map(jnp.shape, params)
    for before, after, by_itself in zip(members(params, model), members(slept, model), alone):
        for (path, got), want in zip(
            jax.tree.leaves_with_path(after), jax.tree.leaves(by_itself[rule])
        ):
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


@pytest.mark.parametrize('measure', [measure.__name__ for measure in MEASURES])
@each_case
def test_each_member_is_measured_alone(model, measure):
    together, alone = together_and_alone(model)
    found = together[measure]
    np.testing.assert_allclose(found, [one[measure] for one in alone], rtol=1e-5)
    assert np.ptp(found) > 1e-3


@functools.cache
def without_biases(name):
    penalty = penalties.resolve(name, {'border': 'include'})
    return compiled(lambda kernel: penalty(kernel, None, GRID))


@pytest.mark.parametrize('name', penalties.PENALTIES)
@each_case
def test_penalties_of_members_add_up(model, name):
    together, alone = together_and_alone(model)
    found = together[name]
    np.testing.assert_allclose(found, sum(one[name] for one in alone), rtol=1e-5)
    params, _ = params_and_grids(model)
    kernels = [kernels_and_biases(member)[0] for member in members(params, model)]
    without = sum(map(without_biases(name), kernels))
    assert (np.abs(found - without) > 1e-3) == (name == 'smoothness')  # which looks at the bias


@each_case
def test_gradients_of_each_member_are_multiplied_by_the_sizes_of_its_pools(model):
    together, alone = together_and_alone(model)
    updates = [one['gradients'] for one in alone]
    jax.tree.map(np.testing.assert_array_equal, members(together['gradients'], model), updates)
