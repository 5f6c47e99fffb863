"""Every transformation of JAX, on every kind of mesh, by every implementation, against `lax`.

Transformations do not depend on the number of dimensions, so the layers have one, which compiles
soonest. There are eight devices.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_same, transformed
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lcn_jax.layer.backends import bilinear
from lcn_jax.layer.functional import conv_local

# x (N, pixels, C) and kernel (positions, taps, C // groups, O), of stride 2.
SIZES = {
    'plain': ((8, 5, 2), (3, 3, 1, 8), 2),
    'one of everything': ((1, 1, 1), (1, 1, 1, 1), 1),
    'no examples': ((0, 5, 2), (3, 3, 2, 8), 1),
}
BATCH, FEATURES = P('devices'), P(None, None, None, 'devices')
each_implementation = pytest.mark.parametrize('implementation', bilinear.implementations())


def operands(size):
    x_shape, kernel_shape, groups = SIZES[size]
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in (x_shape, kernel_shape))
    return x, kernel, groups


def layer_and_gradients(groups, implementation):
    """(x, kernel) -> y, and (x, kernel) -> gradients of a loss with curvature."""
    layer = functools.partial(conv_local, stride=2, groups=groups, implementation=implementation)
    return layer, jax.grad(lambda x, kernel: jnp.sin(layer(x, kernel)).sum(), (0, 1))


@functools.partial(jax.jit, static_argnums=2)
def by_lax(x, kernel, groups):
    layer, gradients = layer_and_gradients(groups, 'lax')
    return layer(x, kernel), gradients(x, kernel)


@functools.cache
def expected(size):
    x, kernel, groups = operands(size)
    return jax.jit(lambda x, kernel: transformed(*layer_and_gradients(groups, 'lax'), x, kernel))(
        x, kernel
    )


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('implementation', bilinear.implementations()[:-1])
def test_on_one_device(implementation, size):
    x, kernel, groups = operands(size)
    program = jax.jit(
        lambda x, kernel: transformed(*layer_and_gradients(groups, implementation), x, kernel)
    )
    assert_same(program(x, kernel), expected(size))


@pytest.mark.parametrize('axes', [(0, None), (None, 1), (2, 0)])
def test_an_empty_vmap(axes):
    x, kernel, groups = operands('plain')
    layer, _ = layer_and_gradients(groups, None)
    batched = [
        array if axis is None else np.zeros(np.insert(array.shape, axis, 0), array.dtype)
        for array, axis in zip((x, kernel), axes)
    ]
    found = jax.vmap(layer, axes)(*batched)
    assert (found.shape, found.dtype) == ((0, *layer(x, kernel).shape), x.dtype)


def test_without_jit_and_exported():
    x, kernel, groups = operands('plain')
    _, gradients = layer_and_gradients(groups, None)
    assert_same(gradients(x, kernel), expected('plain')['grad'])
    exported = jax.export.export(jax.jit(gradients))(x, kernel)
    assert_same(exported.call(x, kernel), expected('plain')['grad'])


def test_hessian():
    x, kernel, _ = operands('one of everything')

    def hessians(implementation):
        layer, _ = layer_and_gradients(1, implementation)
        loss = lambda x, kernel: jnp.sin(layer(x, kernel)).sum()  # noqa: E731
        return jax.jit(jax.hessian(loss, (0, 1)))(x, kernel)

    assert_same(hessians('direct'), hessians('lax'))


@each_implementation
@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name)
@pytest.mark.parametrize('size', ['plain', 'no examples'])
def test_on_a_mesh(implementation, kind, size):
    """With a batch that is split, and with a kernel that is split by features."""
    x, kernel, groups = operands(size)
    if groups > 1 and kind == AxisType.Explicit:
        kernel, groups = np.concatenate([kernel, kernel], 2), 1
    layer, gradients = layer_and_gradients(groups, implementation)
    wanted = by_lax(x, kernel, groups)
    mesh = jax.make_mesh((8,), ('devices',), axis_types=(kind,))
    program = jax.jit(lambda x, kernel: (layer(x, kernel), gradients(x, kernel)))
    for of_x, of_kernel in ((BATCH, P()), (P(), FEATURES)):
        with jax.set_mesh(mesh):
            on_mesh = [
                jax.device_put(array, NamedSharding(mesh, spec))
                for array, spec in ((x, of_x), (kernel, of_kernel))
            ]
            compiled = program.lower(*on_mesh).compile()
            assert_same(compiled(*on_mesh), wanted)
        moved = [
            name for name in ('all-gather', 'permute', 'all-to-all') if name in compiled.as_text()
        ]
        if of_x == BATCH and implementation != 'lax':
            assert not moved  # the only communication is the sum of the kernel's gradient


@each_implementation
@pytest.mark.parametrize('checked', [True, False], ids=['check_vma', 'no check'])
def test_in_shard_map(implementation, checked):
    x, kernel, groups = operands('plain')
    kernel, groups = np.concatenate([kernel, kernel], 2), 1
    layer, gradients = layer_and_gradients(groups, implementation)
    mesh = jax.make_mesh((8,), ('devices',), axis_types=(AxisType.Auto,))
    split = functools.partial(jax.shard_map, mesh=mesh, check_vma=checked)

    @jax.jit
    def program(x, kernel):
        by_batch = split(layer, in_specs=(BATCH, P()), out_specs=BATCH)
        by_feature = split(layer, in_specs=(P(), FEATURES), out_specs=P(None, None, 'devices'))
        results = {
            'by batch': by_batch(x, kernel),
            'by feature': by_feature(x, kernel),
            'gradient of by batch': jax.grad(lambda k: jnp.sin(by_batch(x, k)).sum())(kernel),
            'gradient of by feature': jax.grad(lambda x: jnp.sin(by_feature(x, kernel)).sum())(x),
        }
        if checked:  # then JAX sums the gradients of what all devices share
            results['gradients inside'] = [
                split(gradients, in_specs=specs, out_specs=specs)(x, kernel)
                for specs in ((BATCH, P()), (P(), FEATURES))
            ]
        return results

    y, (dx, dkernel) = by_lax(x, kernel, groups)
    wanted = {
        'by batch': y, 'by feature': y, 'gradient of by batch': dkernel,
        'gradient of by feature': dx,
    } | ({'gradients inside': [(dx, dkernel)] * 2} if checked else {})  # fmt: skip
    assert_same(program(x, kernel), wanted)


@each_implementation
def test_in_pmap(implementation):
    x, kernel, groups = operands('plain')
    layer, gradients = layer_and_gradients(groups, implementation)

    def on_device(x, kernel):
        dx, dkernel = gradients(x, kernel)
        return layer(x, kernel), dx, jax.lax.psum(dkernel, 'devices')

    y, dx, dkernel = jax.pmap(on_device, 'devices', in_axes=(0, None))(x[:, None], kernel)
    want = expected('plain')
    assert_same((y[:, 0], (dx[:, 0], dkernel[3])), (want['value'], want['grad']))
