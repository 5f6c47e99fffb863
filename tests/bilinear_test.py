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
from reference import compiled

from lcn_jax.layer.backends import bilinear
from lcn_jax.layer.functional import conv_local

# x (N, pixels, C) and kernel (positions, taps, C // groups, O), of stride 2.
SIZES = {
    'plain': ((8, 5, 2), (3, 3, 1, 8), 2),
    'one of everything': ((1, 1, 1), (1, 1, 1, 1), 1),
    'no examples': ((0, 5, 2), (3, 3, 2, 8), 1),
}
BATCH, FEATURES = P('devices'), P(None, None, None, 'devices')
ALL = bilinear.implementations()
OURS = ALL[:-1]  # all but 'lax'


def operands(size):
    x_shape, kernel_shape, groups = SIZES[size]
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in (x_shape, kernel_shape))
    return x, kernel, groups


def layer_and_gradients(groups, implementation):
    """(x, kernel) -> y, and (x, kernel) -> gradients of a loss with curvature."""
    layer = functools.partial(conv_local, stride=2, groups=groups, implementation=implementation)
    return layer, jax.grad(lambda x, kernel: jnp.sin(layer(x, kernel)).sum(), (0, 1))


@functools.cache
def by_lax(size, whole=False):
    """The layer and its gradients; of a kernel for a single group if `whole`."""
    x, kernel, groups = of_one_group(size) if whole else operands(size)
    layer, gradients = layer_and_gradients(groups, 'lax')
    return compiled(lambda x, kernel: (layer(x, kernel), gradients(x, kernel)))(x, kernel)


def of_one_group(size):
    x, kernel, groups = operands(size)
    return x, np.concatenate([kernel] * groups, 2), 1


@functools.cache
def expected(size):
    x, kernel, groups = operands(size)
    of_lax = layer_and_gradients(groups, 'lax')
    return compiled(lambda x, kernel: transformed(*of_lax, x, kernel))(x, kernel)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('implementation', OURS)
def test_on_one_device(implementation, size):
    x, kernel, groups = operands(size)
    ours = layer_and_gradients(groups, implementation)
    program = compiled(lambda x, kernel: transformed(*ours, x, kernel))
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
    assert (found.shape, found.dtype) == ((0, *jax.eval_shape(layer, x, kernel).shape), x.dtype)


def test_without_jit_and_exported():
    x, kernel, groups = operands('plain')
    _, gradients = layer_and_gradients(groups, None)
    assert_same(gradients(x, kernel), expected('plain')['grad'])
    exported = jax.export.export(jax.jit(gradients))(x, kernel)
    assert_same(exported.call(x, kernel), expected('plain')['grad'])


def test_hessian():
    x, kernel, _ = operands('one of everything')

    def hessians(implementation, x, kernel):
        layer, _ = layer_and_gradients(1, implementation)
        loss = lambda x, kernel: jnp.sin(layer(x, kernel)).sum()  # noqa: E731
        return jax.hessian(loss, (0, 1))(x, kernel)

    both = compiled(lambda *arrays: [hessians(which, *arrays) for which in ('direct', 'lax')])
    assert_same(*both(x, kernel))


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name)
@pytest.mark.parametrize('size', ['plain', 'no examples'])
def test_on_a_mesh(kind, size):
    """With a batch that is split, and with a kernel that is split by features."""
    whole = kind == AxisType.Explicit
    x, kernel, groups = of_one_group(size) if whole else operands(size)
    mesh = jax.make_mesh((8,), ('devices',), axis_types=(kind,))

    def compiled_for(implementations, *arrays):
        def program(x, kernel):
            found = {}
            for name in implementations:
                layer, gradients = layer_and_gradients(groups, name)
                found[name] = layer(x, kernel), gradients(x, kernel)
            return found

        return jax.jit(program).lower(*arrays).compile()

    for of_x, of_kernel in ((BATCH, P()), (P(), FEATURES)):
        with jax.set_mesh(mesh):
            on_mesh = [
                jax.device_put(array, NamedSharding(mesh, spec))
                for array, spec in ((x, of_x), (kernel, of_kernel))
            ]
            # The only communication for a split batch is the sum of the kernel's gradient.
            programs = [compiled_for(names, *on_mesh) for names in (OURS, ALL[-1:])]
            found = programs[0](*on_mesh) | programs[1](*on_mesh)
        assert_same(found, dict.fromkeys(ALL, by_lax(size, whole)))
        moved = [
            name
            for name in ('all-gather', 'permute', 'all-to-all')
            if name in programs[0].as_text()
        ]
        assert not (of_x == BATCH and moved)


@pytest.mark.parametrize('checked', [True, False], ids=['check_vma', 'no check'])
def test_in_shard_map(checked):
    x, kernel, groups = of_one_group('plain')
    mesh = jax.make_mesh((8,), ('devices',), axis_types=(AxisType.Auto,))
    split = functools.partial(jax.shard_map, mesh=mesh, check_vma=checked)

    def results(implementation, x, kernel):
        layer, gradients = layer_and_gradients(groups, implementation)
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

    y, (dx, dkernel) = by_lax('plain', whole=True)
    wanted = {
        'by batch': y, 'by feature': y, 'gradient of by batch': dkernel,
        'gradient of by feature': dx,
    } | ({'gradients inside': [(dx, dkernel)] * 2} if checked else {})  # fmt: skip
    program = compiled(lambda x, kernel: {name: results(name, x, kernel) for name in ALL})
    assert_same(program(x, kernel), dict.fromkeys(ALL, wanted))


def test_in_pmap():
    x, kernel, groups = operands('plain')

    def on_device(x, kernel):
        found = {}
        for name in ALL:
            layer, gradients = layer_and_gradients(groups, name)
            dx, dkernel = gradients(x, kernel)
            found[name] = layer(x, kernel), dx, jax.lax.psum(dkernel, 'devices')
        return found

    on_devices = jax.pmap(on_device, 'devices', in_axes=(0, None))
    want = expected('plain')
    for y, dx, dkernel in jax.device_get(on_devices(x[:, None], kernel)).values():
        assert_same((y[:, 0], (dx[:, 0], dkernel[3])), (want['value'], want['grad']))
