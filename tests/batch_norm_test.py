"""BatchNorm against Flax's: values, statistics, derivatives of every kind, on one and two devices.

The sums that it consists of are compared with float64.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_same
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from reference import compiled

from lcn_jax.layer.backends.native import library
from lcn_jax.layer.backends.sums import scaled, summed
from lcn_jax.layer.norm import BatchNorm

RANDOM = np.random.default_rng(0)
SHAPE = (3, 4, 10, 6)  # (H, W, N, C)
AXES = {'shared': -1, 'local': (0, 1, 3)}
each_norm = pytest.mark.parametrize('norm', AXES)
native_only = pytest.mark.skipif(not library.available(), reason=library.describe())


@pytest.fixture(params=['native', 'plain'])
def backend(request, monkeypatch):
    if request.param == 'plain':
        monkeypatch.setattr(library, 'computes', lambda dtype: False)
    elif not library.available():
        pytest.skip(library.describe())
    return request.param


def normal(*shape, dtype='float32'):
    return RANDOM.normal(size=shape).astype(dtype)


def pair(norm, training=True, **fields):
    """Ours and Flax's, with variables for both."""
    fields = dict(use_running_average=not training, axis=AXES[norm], momentum=0.9) | fields
    shape = SHAPE[-1:] if norm == 'shared' else (*SHAPE[:2], SHAPE[-1])
    variables = {
        'params': {'scale': normal(*shape), 'bias': normal(*shape)},
        'batch_stats': {'mean': normal(*shape), 'var': np.exp(normal(*shape))},
    }
    return (BatchNorm(**fields), nn.BatchNorm(epsilon=1e-5, **fields)), variables


def layer(module, variables, residual):
    """x, params -> relu(BatchNorm(x) + residual), which is what networks do, and statistics."""

    def apply(x, params):
        of = variables | {'params': params}
        y, updated = module.apply(of, x, mutable=['batch_stats'])
        return nn.relu(y + residual), updated

    return apply


# ---- Values and derivatives. ---------------------------------------------------------------------


@functools.cache
def operands(norm, training):
    """Both modules, variables, x and residual, and tangents of x and the parameters."""
    modules, variables = pair(norm, training)
    tangents = normal(*SHAPE), jax.tree.map(np.cos, variables['params'])
    return modules, variables, 3 + 2 * normal(*SHAPE), normal(*SHAPE), tangents


def everything(norm, training, which):
    """Of the first or the second module."""
    modules, variables, x, residual, tangents = operands(norm, training)
    apply = layer(modules[which], variables, residual)
    loss = lambda x, params: jnp.sin(apply(x, params)[0]).sum()  # noqa: E731
    gradients = jax.grad(loss, (0, 1))

    @compiled
    def program(x, params):
        return {
            'value': apply(x, params),
            'gradients': gradients(x, params),
            'forward mode': jax.jvp(apply, (x, params), tangents)[1],
            'forward over reverse': jax.jvp(gradients, (x, params), tangents)[1],
            'checkpoint': jax.grad(jax.checkpoint(loss), (0, 1))(x, params),
            'vmap over x': jax.vmap(gradients, (0, None))(jnp.stack([x, 1 - x]), params),
            'vmap over params': jax.vmap(gradients, (None, 0))(
                x, jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), params)
            ),
        }

    return program(x, variables['params'])


of_flax = functools.cache(functools.partial(everything, which=1))


@each_norm
@pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
def test_values_statistics_and_derivatives_are_those_of_flax(backend, norm, training):
    found, expected = everything(norm, training, 0), of_flax(norm, training)
    second = {'forward over reverse'}
    for name in expected:
        assert_same(found[name], expected[name], 1e-4 if name in second else 1e-5)


INPUTS = {
    shape: normal(*shape) for shape in [(1, 1, 5, 1), (2, 3, 5, 3), (7, 7, 9, 17), (2, 2, 700, 40)]
}


@functools.cache
def variables_and_gradients(kind, backend):
    """Of all these inputs, in one program; the backend that is in force only names the result."""
    module = kind(use_running_average=False)

    def of_input(x):
        variables = module.init(jax.random.key(0), x)
        apply = layer(module, variables, 0)
        return variables, jax.grad(lambda x: (apply(x, variables['params'])[0] ** 2).sum())(x)

    return dict(zip(INPUTS, compiled(lambda xs: [of_input(x) for x in xs])(list(INPUTS.values()))))


@pytest.mark.parametrize('shape', INPUTS)
def test_any_number_of_channels_and_examples(backend, shape):
    found = variables_and_gradients(BatchNorm, backend)[shape]
    assert_same(found, variables_and_gradients(nn.BatchNorm, None)[shape], 2e-5)


@each_norm
def test_bfloat16(backend, norm):
    """x and y are rounded, all between them is float32, as in Flax."""
    (module, reference), variables = pair(norm, dtype=jnp.bfloat16)
    x, residual = normal(*SHAPE, dtype='bfloat16'), normal(*SHAPE, dtype='bfloat16')

    def value_and_gradients(module):
        apply = layer(module, variables, residual)
        y, pullback, _ = jax.vjp(apply, x, variables['params'], has_aux=True)
        return y, pullback(residual)

    both = compiled(lambda: [value_and_gradients(m) for m in (module, reference)])
    found, expected = both()
    assert found[0].dtype == jnp.bfloat16 and found[1][0].dtype == jnp.bfloat16
    assert found[1][1]['scale'].dtype == jnp.float32
    # Two roundings to 8 binary digits can differ by a unit in the last one.
    assert_same(found, expected, 2.0**-7)


@pytest.mark.parametrize('dtype', ['float16', 'float64'])
def test_other_dtypes_are_computed_in_plain_jax(dtype):
    with jax.enable_x64(True):
        module, reference = (
            kind(use_running_average=False, dtype=dtype) for kind in (BatchNorm, nn.BatchNorm)
        )
        x = normal(*SHAPE, dtype=dtype)

        @compiled
        def both(x):
            variables = module.init(jax.random.key(0), x)
            return [m.apply(variables, x, mutable=['batch_stats']) for m in (module, reference)]

        found, expected = both(x)
        assert found[0].dtype == dtype
        assert_same(found[0], expected[0], 2 * float(jnp.finfo(dtype).eps) + 1e-6)


# ---- Several devices. ----------------------------------------------------------------------------


@each_norm
def test_synchronised_statistics_of_two_devices(backend, norm):
    """As one device has them with all examples, and as Flax has them."""
    modules, variables = pair(norm, axis_name='devices')
    params, examples = variables['params'], SHAPE[-2]
    x, residual = 1 + normal(2, *SHAPE), normal(2, *SHAPE)

    def with_module(module, x, residual):
        apply = layer(module, variables, residual)
        loss = lambda x, params: jnp.sin(apply(x, params)[0]).sum()  # noqa: E731
        dx, dparams = jax.grad(loss, (0, 1))(x, params)
        return apply(x, params), dx, jax.lax.psum(dparams, 'devices')

    def on_device(x, residual):
        return [with_module(module, x, residual) for module in modules]

    on_two = jax.pmap(on_device, 'devices', devices=jax.devices()[:2])
    found, expected = jax.device_get(on_two(x, residual))
    assert_same(found, expected)

    together = [np.concatenate(list(array), axis=-2) for array in (x, residual)]
    alone, _ = pair(norm)
    on_one = jax.vmap(functools.partial(with_module, alone[0]), axis_name='devices')
    (y, updated), dx, dparams = compiled(on_one)(*(a[None] for a in together))
    for device in range(2):
        own = slice(device * examples, (device + 1) * examples)
        assert_same(found[0][0][device], y[0, :, :, own])
        assert_same(found[1][device], dx[0, :, :, own])
    of_both = jax.tree.map(lambda leaf: np.repeat(leaf, 2, 0), [updated, dparams])
    assert_same([found[0][1], found[2]], of_both)


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name)
def test_on_a_mesh(kind):
    """There the compiler divides the examples, and plain operations take the place of calls."""
    (module, reference), variables = pair('shared')
    x = normal(3, 4, 16, 6)
    mesh = jax.make_mesh((8,), ('devices',), axis_types=(kind,))

    def gradients(module, x, params):
        apply = layer(module, variables, 0)
        return jax.grad(lambda x, params: (apply(x, params)[0] ** 3).sum(), (0, 1))(x, params)

    expected = jax.jit(functools.partial(gradients, reference))(x, variables['params'])
    with jax.set_mesh(mesh):
        split = jax.device_put(x, NamedSharding(mesh, P(None, None, 'devices')))
        params = jax.device_put(variables['params'], NamedSharding(mesh, P()))
        program = jax.jit(functools.partial(gradients, module)).lower(split, params)
        assert 'lcn_sums' not in program.as_text()
        assert_same(program.compile()(split, params), expected)


def test_in_shard_map():
    """Statistics of each device; JAX sums the gradients of what all devices share."""
    (module, reference), variables = pair('shared')
    x, mesh = normal(3, 4, 16, 6), jax.make_mesh((8,), ('devices',), axis_types=(AxisType.Auto,))
    specs = P(None, None, 'devices'), P()

    def gradient(module, x, params):
        def loss(x, params):
            y = jax.shard_map(
                lambda x, params: layer(module, variables, 0)(x, params)[0],
                mesh=mesh, in_specs=specs, out_specs=specs[0],
            )(x, params)  # fmt: skip
            return (y**3).sum()

        return jax.grad(loss, (0, 1))(x, params)

    both = compiled(lambda *arguments: [gradient(m, *arguments) for m in (module, reference)])
    assert_same(*both(x, variables['params']))


@native_only
def test_the_custom_call_is_used_where_arrays_are_whole():
    (module, _), variables = pair('shared')
    text = jax.jit(lambda x: module.apply(variables, x, mutable=['batch_stats'])[0]).lower(
        normal(*SHAPE)
    )
    assert text.as_text().count('lcn_sums') >= 1


# ---- The sums. -----------------------------------------------------------------------------------


SUMS = {
    (shape, dtype): (
        2 + normal(*shape, dtype=dtype), normal(shape[0], 1, shape[2]), normal(*shape, dtype=dtype)
    )
    for shape in [(1, 1, 1), (1, 40_000, 16), (3, 257, 5), (5, 100, 32), (2, 3, 300), (1, 0, 4)]
    for dtype in ('float32', 'bfloat16')
}  # fmt: skip


@functools.cache
def sums_of_all(backend):
    """In one program; the backend that is in force only names the result."""
    program = compiled(lambda operands: [summed(*arrays, (1,)) for arrays in operands])
    return dict(zip(SUMS, program(list(SUMS.values()))))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('shape', dict.fromkeys(shape for shape, _ in SUMS))
def test_sums_are_those_of_float64(backend, shape, dtype):
    x, center, z = (np.asarray(array, np.float64) for array in SUMS[shape, dtype])
    for got, of in zip(sums_of_all(backend)[shape, dtype], ((x - center) * z, z), strict=True):
        assert got.dtype == np.float32
        assert (np.abs(got[:, 0] - of.sum(1)) <= 2e-6 * np.abs(of).sum(1)).all()


def test_not_finite_numbers_stay_in_their_channel(backend):
    x = np.zeros((1, 50, 5), np.float32)
    x[0, 3, 1], x[0, 7, 4] = np.nan, np.inf
    program = compiled(lambda *arrays: summed(*arrays, axes=(1,)))
    products, sums = program(x, np.zeros((1, 1, 5), np.float32), x)
    for found in (products, sums):
        assert list(np.isfinite(found[0, 0])) == [True, False, True, True, False]


def test_scaled_is_linear_and_summed_its_transpose(backend):
    x, z = normal(2, 30, 3), normal(2, 30, 3)
    center, scale, bias = normal(2, 1, 3), normal(2, 1, 3), normal(2, 1, 3)

    @compiled
    def both(x, z, center, scale, bias):
        return scaled(x, center, scale, bias, (1,)), summed(x, center, z, (1,))

    y, (products, sums) = both(x, z, center, scale, bias)
    np.testing.assert_allclose((y * z).sum(), (scale * products + bias * sums).sum(), rtol=1e-4)
