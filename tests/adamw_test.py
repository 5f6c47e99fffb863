"""AdamW in one pass is optax's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lcn_jax.layer.backends.native import library
from lcn_jax.training import adamw

RATE = optax.piecewise_constant_schedule(0.1, {2: 0.1})
OPTIMIZER = adamw.AdamW(RATE, b1=0.8, weight_decay=0.3)
BY_OPTAX = optax.adamw(RATE, b1=0.8, weight_decay=0.3)
# More numbers than a chunk of the C++ loop has, fewer than a vector, one, and none.
SHAPES = {'kernel': (3, 5, 1200), 'bias': (7,), 'scale': (), 'nothing': (0, 4)}

native_only = pytest.mark.skipif(not library.available(), reason=library.describe())


def random(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        name: np.asarray(scale * rng.normal(size=size), np.float32) for name, size in SHAPES.items()
    }


def step(optimizer, params, opt_state, grads):
    return adamw.new(optimizer, grads, opt_state, params)


def trained(update):
    """Parameters and state after four steps, with gradients of all sizes."""
    params = random(0)
    opt_state = OPTIMIZER.init(params)
    for number in range(4):
        params, opt_state = update(params, opt_state, random(number + 1, 10.0 ** (-3 * number)))
    return params, opt_state


def assert_near(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 3e-6, 1e-7), one, other)


@native_only
def test_a_step_is_that_of_optax():
    of_optax = trained(jax.jit(functools.partial(step, BY_OPTAX)))
    one_pass = jax.jit(functools.partial(step, OPTIMIZER))
    assert 'lcn_adamw' in one_pass.lower(*trained(one_pass), random(0)).as_text()
    assert_near(trained(one_pass), of_optax)


@native_only
def test_donated_parameters_and_moments_change_in_place():
    params = jax.tree.map(jnp.asarray, random(0))
    state = jax.tree.map(jnp.copy, (params, OPTIMIZER.init(params)))
    before = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state) if leaf.size > 1]
    state = jax.jit(functools.partial(step, OPTIMIZER), donate_argnums=(0, 1))(*state, random(1))
    after = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state) if leaf.size > 1]
    assert after == before


@native_only
def test_numbers_that_are_not_finite_stay_where_they_are():
    grads = random(1)
    grads['kernel'][1, 2, 3], grads['bias'][:] = np.nan, 1e30
    params, _ = jax.jit(functools.partial(step, OPTIMIZER))(
        random(0), OPTIMIZER.init(random(0)), grads
    )
    assert np.argwhere(np.isnan(params['kernel'])).tolist() == [[1, 2, 3]]
    np.testing.assert_allclose(params['bias'], 0.97 * random(0)['bias'], rtol=1e-6)


def test_a_batch_of_steps():
    params, grads = random(0), [random(1), random(2)]
    opt_state = OPTIMIZER.init(params)
    both = jax.tree.map(lambda *leaves: np.stack(leaves), *grads)
    found = jax.jit(jax.vmap(functools.partial(step, OPTIMIZER, params, opt_state)))(both)
    of_optax = jax.jit(functools.partial(step, BY_OPTAX))
    each = [of_optax(params, opt_state, of) for of in grads]
    assert_near(found, jax.tree.map(lambda *leaves: np.stack(leaves), *each))
