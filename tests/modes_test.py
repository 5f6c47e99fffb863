"""The switches and tools of JAX and Flax work with the layer as they do with a convolution."""

import subprocess
import sys

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from flax import nnx
from reference import compiled, over_cases

import lcn_jax.nnx
from lcn_jax import LocalConv, Rule, conv_local, grids, mean, share, to_shared
from lcn_jax.layer.backends import native
from lcn_jax.layer.local_parameters import LocalParameter
from lcn_jax.layer.low_rank import LowRankConv
from lcn_jax.training import cost

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, 6, 6, 3), np.float32)
KERNEL = RANDOM.standard_normal((6, 6, 3, 3, 3, 4), np.float32)


def test_without_jit_it_computes_the_same():
    def loss(x, kernel):
        return (conv_local(x, kernel) ** 2).sum()

    found = jax.value_and_grad(loss, (0, 1))
    expected = jax.jit(found)(X, KERNEL)
    with jax.disable_jit():
        chex.assert_trees_all_close(found(X, KERNEL), expected, rtol=1e-6)


LAYERS = {
    'bias': LocalConv(4, 3),
    'local bias': LocalConv(4, 3, local_bias=True),
    'examples last': LocalConv(4, 3, local_bias=True, layout='HWNC'),
    'shared bias, examples last': LocalConv(4, 3, layout='HWNC'),
    'low rank': LowRankConv(4, 3, rank=2),
    'low rank, examples last': LowRankConv(4, 3, rank=2, layout='HWNC'),
}


def initialised_and_applied(name, x):
    layer, random = LAYERS[name], np.random.default_rng(1)
    x = jnp.moveaxis(x, 0, 2) if layer.layout == 'HWNC' else x
    variables = layer.init(KEY, x)
    noisy = jax.tree.map(
        lambda leaf: leaf + random.normal(size=leaf.shape).astype(np.float32), variables
    )
    return variables, layer.apply(noisy, x)


promoting = over_cases(initialised_and_applied, list(LAYERS), lambda name: (X,))
not_promoting = over_cases(initialised_and_applied, list(LAYERS), lambda name: (X,))


@pytest.mark.parametrize('name', LAYERS)
def test_no_layer_promotes_ranks(name):
    """`jax_numpy_rank_promotion` finds broadcasts that were not meant, while JAX traces."""
    _, expected = promoting(name)
    with jax.numpy_rank_promotion('raise'):
        _, found = not_promoting(name)
    chex.assert_trees_all_equal(found, expected)


def test_neither_nnx_nor_sleep_nor_conversion_promotes_ranks():
    layer = LocalConv(4, 3, local_bias=True)
    params = jax.eval_shape(layer.init, KEY, X)['params']
    of_layer = grids(layer, X.shape[1:])

    def everything(params):
        y = lcn_jax.nnx.LocalConv(3, 4, (3, 3), input_size=(6, 6), rngs=nnx.Rngs(0))(X)
        return y, share(params, of_layer, Rule(mean), KEY), to_shared(params, of_layer)

    with jax.numpy_rank_promotion('raise'):
        jax.eval_shape(everything, params)


# ---- The native kernel is a black box to XLA: docs/models.md says what to do. --------------------

STORE = """
import pickle, sys
import jax, jax.numpy as jnp
from jax.experimental import serialize_executable
from lcn_jax import conv_local
program = jax.jit(conv_local).lower(jnp.ones((1, 6, 6, 3)), jnp.ones((6, 6, 3, 3, 3, 4))).compile()
with open(sys.argv[1], 'wb') as file:
    pickle.dump(serialize_executable.serialize(program), file)
"""
LOAD = """
import pickle, sys
import jax.numpy as jnp
from jax.experimental import serialize_executable
from lcn_jax.layer.backends import native
assert native.available()
with open(sys.argv[1], 'rb') as file:
    program = serialize_executable.deserialize_and_load(*pickle.load(file))
print(program(jnp.ones((1, 6, 6, 3)), jnp.ones((6, 6, 3, 3, 3, 4))).sum())
"""


@pytest.mark.skipif(not native.available(), reason=native.describe())
@pytest.mark.slow
def test_a_stored_program_runs_in_a_process_that_has_loaded_the_kernel(tmp_path):
    # JAX cannot store a program that it has from its cache.
    environment = tiny_runs.environment(1) | {'JAX_ENABLE_COMPILATION_CACHE': 'false'}
    for program in (STORE, LOAD):
        command = [sys.executable, '-c', program, str(tmp_path / 'program')]
        output = subprocess.check_output(command, env=environment, cwd=tiny_runs.ROOT, text=True)
    taps_inside = sum(min(i + 2, 6) - max(i - 1, 0) for i in range(6)) ** 2
    assert float(output) == 3 * 4 * taps_inside


COUNT = """
import jax, jax.numpy as jnp
from lcn_jax import conv_local
x, kernel = jnp.ones((1, 6, 6, 3)), jnp.ones((6, 6, 3, 3, 3, 4))
print(jax.jit(conv_local).lower(x, kernel).compile().cost_analysis()['flops'])
"""


@pytest.mark.slow
def test_xla_counts_flops_without_the_native_kernel():
    """As `cost` does from shapes; the shifted products are added up, which XLA counts, too."""
    environment = tiny_runs.environment(1) | {'LCN_NATIVE': '0'}
    command = [sys.executable, '-c', COUNT]
    counted = subprocess.check_output(command, env=environment, cwd=tiny_runs.ROOT, text=True)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return LocalConv(4, 3, use_bias=False)(x)

    (layer,) = cost.layers(Model(), (6, 6, 3))
    assert layer.flops == 2 * 6 * 6 * 4 * 27
    assert float(counted) == pytest.approx(layer.flops, rel=0.1)


# ---- Nothing to share is an error, not a sleep without effect. -----------------------------------


def test_sharing_nothing_is_an_error():
    with pytest.raises(ValueError, match=r'grids is empty: the network has no locally connected'):
        share({'kernel': KERNEL}, {}, Rule(mean), KEY)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name='logits')(LocalConv(4, 3)(x))


class Line(nn.Module):
    """Shared layers, whose kernels have up to five axes."""

    @nn.compact
    def __call__(self, x):
        return nn.Conv(4, (3, 3, 1))(nn.Conv(4, (3, 3))(x)[..., None, :])


def in_nnx(layer, x):
    return nnx.eval_shape(
        lambda: nnx.bridge.lazy_init(nnx.bridge.ToNNX(layer, rngs=nnx.Rngs(0)), x)
    )


def test_a_layer_of_linen_hidden_in_nnx_is_an_error():
    for hidden in (LocalConv(4, 3), LocalConv(4, (3,)), Net()):
        x = X[:, 0] if getattr(hidden, 'kernel_size', 3) == (3,) else X
        model = in_nnx(hidden, x)
        with pytest.raises(ValueError, match=r'nnx.bridge.ToNNX .* has a locally connected layer'):
            lcn_jax.nnx.grids(model)
    for shared in (nn.Dense(4), Line()):
        model = in_nnx(shared, X)
        assert lcn_jax.nnx.grids(model) == {}


def ensemble(members, kernel_size, input_size, axis=0, **options):
    @nnx.split_rngs(splits=members)
    @nnx.vmap(out_axes=axis)
    def make(rngs):
        return lcn_jax.nnx.LocalConv(
            3, 4, kernel_size, input_size=input_size, rngs=rngs,
            bias_init=nnx.initializers.normal(1.0), **options,
        )  # fmt: skip

    return make(nnx.Rngs(0))


@pytest.mark.parametrize('members, size', [(7, (7,)), (6, (6, 6))])
def test_members_of_an_nnx_ensemble_sleep_by_themselves(members, size):
    """As many members as positions: only the order of the axes tells them apart."""

    @compiled
    def awake_asleep_and_alone():
        model = ensemble(members, (3,) * len(size), size)
        state, of_model = nnx.state(model, nnx.Param), lcn_jax.nnx.grids(model)
        asleep = lcn_jax.nnx.share(state, of_model, Rule(mean), KEY)
        alone = [
            share({'kernel': kernel}, of_model, Rule(mean), KEY)['kernel']
            for kernel in model.kernel[...]
        ]
        return nnx.to_pure_dict(state), nnx.to_pure_dict(asleep), alone

    awake, asleep, alone = awake_asleep_and_alone()
    np.testing.assert_array_equal(asleep['bias'], awake['bias'])
    np.testing.assert_allclose(asleep['kernel'], alone, atol=1e-6)
    for before, after in zip(awake['kernel'], asleep['kernel']):
        assert np.abs(after - before).max() > 0.1


@pytest.mark.parametrize('options', [{}, {'use_bias': False}, {'local_bias': True}], ids=str)
@pytest.mark.parametrize('axis', [0, 1, -1])
def test_members_along_any_axis_sleep_as_each_would_alone(axis, options):
    @compiled
    def members_asleep_and_alone():
        model = ensemble(5, (3,), (7,), axis, **options)
        one = {'kernel': LocalParameter(model.grid)}
        if 'local_bias' in options:
            one['bias'] = LocalParameter(model.grid, per_neuron=True)
        state = nnx.state(model, nnx.Param)
        together = lcn_jax.nnx.share(state, lcn_jax.nnx.grids(model), Rule(mean), KEY)
        members, asleep = (
            [{name: jnp.take(of[name], number, axis) for name in one} for number in range(5)]
            for of in (nnx.to_pure_dict(state), nnx.to_pure_dict(together))
        )
        return members, asleep, [share(member, one, Rule(mean), KEY) for member in members]

    for member, asleep, alone in zip(*members_asleep_and_alone(), strict=True):
        for name in alone:
            np.testing.assert_allclose(asleep[name], alone[name], atol=1e-6)
            assert np.abs(asleep[name] - member[name]).max() > 0.1


def shapes_of_ensemble(*arguments, **options):
    return nnx.eval_shape(lambda: ensemble(*arguments, **options))


@pytest.mark.parametrize('options', [{'use_bias': False}, {'local_bias': True}], ids=str)
def test_members_whose_axis_no_shape_tells_are_refused(options):
    for axis in (0, 1):
        model = shapes_of_ensemble(7, (3,), (7,), axis, **options)
        with pytest.raises(ValueError, match=r'copies along axes \(0,\) or \(1,\), for sizes are'):
            lcn_jax.nnx.grids(model)
    of_model = lcn_jax.nnx.grids(shapes_of_ensemble(7, (3,), (7,), 1))  # whose bias tells it
    assert of_model['kernel'].ensemble == (1,)


def test_an_nnx_kernel_of_another_shape_is_refused():
    def changed():
        model = ensemble(5, (3,), (7,))
        model.kernel = nnx.Param(model.kernel[..., :1])
        return model

    model = nnx.eval_shape(changed)
    with pytest.raises(ValueError, match=r'is not that of copies of one layer, \(7, 3, 3, 4\)'):
        lcn_jax.nnx.grids(model)
