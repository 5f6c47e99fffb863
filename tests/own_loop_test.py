"""Sleeps in training loops of one's own: their parts by brute force, and the examples."""

import runpy

import jax
import numpy as np
import optax
import pytest
import tiny_runs
from flax import nnx
from reference import pool_means

import lcn_jax
import lcn_jax.nnx
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.local_parameters import LocalParameter, by_path

GRID = Grid.create((5, 6), 3)
SHAPE = (5, 6, 3, 3, 1, 2)


def arrays(seed):
    """A local kernel, and a shared one in a module of the same name."""
    random = np.random.default_rng(seed).normal
    return {
        'conv': {'kernel': np.float32(random(size=SHAPE))},
        'encoder': {'conv': {'kernel': np.float32(random(size=SHAPE[2:]))}},
    }


@pytest.mark.parametrize('joined', [False, True])
@pytest.mark.parametrize(
    'optimizer, moments',
    [
        (optax.adamw(1e-3), 2),
        (optax.sgd(0.1, momentum=0.9), 1),
        (optax.chain(optax.clip(1.0), optax.lion(1e-3)), 1),
        (optax.inject_hyperparams(optax.adam)(1e-3), 2),
        (optax.masked(optax.adam(1e-3), {'conv': True, 'encoder': False}), 2),
        (
            optax.multi_transform(
                {'a': optax.adam(1e-3), 'b': optax.sgd(1.0)}, {'conv': 'a', 'encoder': 'b'}
            ),
            2,
        ),
        (optax.adafactor(1e-3, min_dim_size_to_factor=2), 0),  # its moments have other shapes
    ],
)
def test_moments_of_any_optimizer_are_averaged_within_pools(optimizer, moments, joined):
    params, grids = arrays(0), {'conv': {'kernel': LocalParameter(GRID, joined=joined)}}
    leaves, structure = jax.tree.flatten(jax.eval_shape(optimizer.init, params))
    random = np.random.default_rng(1)
    leaves = [np.asarray(random.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
    state = jax.tree.unflatten(structure, leaves)
    after = jax.tree.leaves(lcn_jax.share_moments(state, params, grids))
    changed = [leaf.shape == SHAPE for leaf in leaves]
    assert sum(changed) == moments
    for old, new, is_local in zip(leaves, after, changed):
        expected = old
        if is_local:
            means = old.mean((0, 1), keepdims=True) if joined else pool_means(old, GRID, 'include')
            expected = np.broadcast_to(means, SHAPE)
        np.testing.assert_allclose(new, expected, atol=1e-6)


def zeros(key, shape, dtype):
    return np.zeros(shape, dtype)


def test_pools_are_joined_where_grids_are_made():
    model = lcn_jax.LocalConv(2, (3, 3), local_bias=True)
    found = by_path(lcn_jax.grids(model, (5, 6, 1), pools='joined'))
    assert [local.joined for local in found.values()] == [True, True]
    assert not any(local.joined for local in by_path(lcn_jax.grids(model, (5, 6, 1))).values())
    layer = lcn_jax.nnx.LocalConv(
        1, 2, (3, 3), input_size=(5, 6), local_bias=True, kernel_init=zeros, bias_init=zeros,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    for pools, joined in (('joined', True), ('tiled', False)):
        found = by_path(lcn_jax.nnx.grids(layer, pools)).values()
        assert [local.joined for local in found] == [joined, joined]
    for grids in (lambda pools: lcn_jax.grids(model, (5, 6, 1), pools=pools),
                  lambda pools: lcn_jax.nnx.grids(None, pools)):  # fmt: skip
        with pytest.raises(ValueError, match='pools'):
            grids('one')


@pytest.mark.parametrize('name', ['own_loop_linen', 'own_loop_nnx'])
@pytest.mark.slow
def test_the_examples_run(name, tmp_path):
    """An epoch; docs/own_loop.md says what all of them reach."""
    path = tiny_runs.ROOT / f'examples/{name}.py'
    assert len(path.read_text().splitlines()) <= 75
    accuracy = runpy.run_path(str(path))['main'](epochs=1, data_dir=str(tmp_path))
    assert 0 <= accuracy <= 1
