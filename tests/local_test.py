"""The layer against convolution, against `lax.conv_general_dilated_local`, and its module."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from lcn_jax import local
from lcn_jax.grid import Grid
from lcn_jax.local import LocalConv, conv_local, he_normal, tile_kernel

DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')

shapes = st.fixed_dictionaries(
    {
        'size': st.tuples(st.integers(4, 9), st.integers(4, 9)),
        'kernel_size': st.tuples(st.integers(1, 5), st.integers(1, 4)),
        'stride': st.tuples(st.integers(1, 3), st.integers(1, 3)),
        'padding': st.sampled_from(['SAME', 'VALID', 1, ((2, 0), (1, 3))]),
        'groups': st.sampled_from([1, 2, 3]),
        'layout': st.sampled_from(['NHWC', 'HWNC']),
        'channels': st.sampled_from([1, 2, 5]),  # of a group
        'examples': st.sampled_from([3, 37]),
    }
).filter(
    lambda s: s['padding'] != 'VALID' or all(k <= n for k, n in zip(s['kernel_size'], s['size']))
)


def operands(shape, features=12):
    """x (N, H, W, C), kernel (Ho, Wo, kh, kw, C // groups, O) and the grid."""
    grid = Grid.create(shape['size'], shape['kernel_size'], shape['stride'], shape['padding'])
    rng = np.random.RandomState(0)
    channels = shape['groups'] * shape['channels']
    x = rng.randn(shape['examples'], *shape['size'], channels).astype(np.float32)
    kernel = rng.randn(*grid.output_size, *grid.kernel_size, shape['channels'], features)
    return x, kernel.astype(np.float32), grid


def layer(shape, implementation=None):
    """(x NHWC, kernel) -> y NHWC, whatever the layout inside."""

    def apply(x, kernel):
        x = x if shape['layout'] == 'NHWC' else jnp.transpose(x, (1, 2, 0, 3))
        y = conv_local(
            x,
            kernel,
            stride=shape['stride'],
            padding=shape['padding'],
            groups=shape['groups'],
            layout=shape['layout'],
            implementation=implementation,
        )
        return y if shape['layout'] == 'NHWC' else jnp.transpose(y, (2, 0, 1, 3))

    return apply


def assert_same(actual, expected, tolerance=1e-5):
    """Relative to the largest entry: the order of the sums is not the same."""
    scale = max(np.abs(expected).max(), 1e-30)
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=tolerance)


def value_and_gradients(apply):
    """(x, kernel) -> y, dx, dkernel for a cotangent that differs everywhere."""

    def compute(x, kernel):
        y, pullback = jax.vjp(apply, x, kernel)
        return y, *pullback(jnp.cos(jnp.arange(y.size, dtype=y.dtype).reshape(y.shape)))

    return jax.jit(compute)


@given(shape=shapes)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_all_implementations_agree_with_lax_in_value_and_gradients(shape):
    x, kernel, _ = operands(shape)
    direct, patches, reference = (
        value_and_gradients(layer(shape, name))(x, kernel) for name in local.IMPLEMENTATIONS
    )
    for got, want in zip(direct + patches, reference * 2):
        assert_same(got, want)


@given(shape=shapes)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_a_tiled_kernel_makes_a_convolution(shape):
    x, _, grid = operands(shape)
    kernel = np.random.RandomState(2).randn(*grid.kernel_size, shape['channels'], 12)
    kernel = kernel.astype(np.float32)

    def convolution(x, kernel):
        # XLA's gradient is wrong on some CPUs (JAX 0.10.2) if it is to pad by more than a kernel.
        return lax.conv_general_dilated(
            jnp.pad(x, ((0, 0), *grid.padding, (0, 0))),
            kernel,
            grid.stride,
            'VALID',
            dimension_numbers=DIMENSIONS,
            feature_group_count=shape['groups'],
        )

    local_kernel = tile_kernel(kernel, grid.output_size)
    y, dx, dkernel = value_and_gradients(layer(shape))(x, local_kernel)
    expected = value_and_gradients(convolution)(x, kernel)
    for got, want in zip((y, dx, dkernel.sum((0, 1))), expected):
        assert_same(got, want)


class Transformations(chex.TestCase):
    shape = {
        'size': (6, 5),
        'kernel_size': (3, 3),
        'stride': (1, 1),
        'padding': 'SAME',
        'groups': 1,
        'layout': 'NHWC',
        'channels': 2,
        'examples': 3,
    }

    @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
    def test_gradient_by_finite_difference(self):
        x, kernel, _ = operands(self.shape, features=3)
        apply = layer(self.shape)

        def loss(x, kernel):
            return jnp.sin(apply(x, kernel)).sum()

        dx, dkernel = self.variant(jax.grad(loss, (0, 1)))(x, kernel)
        direction = np.random.RandomState(3).randn(*kernel.shape).astype(np.float32)
        step = 1e-2
        difference = (loss(x, kernel + step * direction) - loss(x, kernel - step * direction)) / (
            2 * step
        )
        np.testing.assert_allclose((dkernel * direction).sum(), difference, rtol=1e-2)
        self.assertEqual(dx.shape, x.shape)

    def test_vmap_over_networks_is_a_loop(self):
        x, kernel, _ = operands(self.shape)
        apply = jax.grad(lambda x, kernel: jnp.sin(layer(self.shape)(x, kernel)).sum(), (0, 1))
        xs, kernels = np.stack([x, 2 * x]), np.stack([kernel, kernel - 1])
        for i, (dx, dkernel) in enumerate(zip(*jax.vmap(apply)(xs, kernels))):
            want = apply(xs[i], kernels[i])
            assert_same(dx, want[0])
            assert_same(dkernel, want[1])

    def test_bfloat16_follows_float32(self):
        x, kernel, _ = operands(self.shape)
        x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
        y, pullback = jax.vjp(layer(self.shape), x, kernel)
        wide = jnp.float32(x), jnp.float32(kernel)
        expected, expected_pullback = jax.vjp(layer(self.shape), *wide)
        self.assertEqual(y.dtype, jnp.bfloat16)
        assert_same(jnp.float32(y), expected, 2e-2)
        for got, want in zip(pullback(y), expected_pullback(jnp.float32(y))):
            self.assertEqual(got.dtype, jnp.bfloat16)
            assert_same(jnp.float32(got), want, 2e-2)


@pytest.mark.parametrize(
    'change, message',
    [
        ({'x': np.zeros((3, 6, 6), np.float32)}, 'x with 4 axes'),
        ({'kernel': np.zeros((6, 6, 3, 3, 4), np.float32)}, 'a kernel with 6'),
        ({'kernel': np.zeros((6, 6, 3, 3, 4, 8), np.float16)}, 'one dtype'),
        ({'kernel': np.zeros((5, 6, 3, 3, 4, 8), np.float32)}, r'need .* = \(6, 6, 3, 3, 4, 8\)'),
        ({'groups': 3}, 'groups must divide'),
        ({'groups': 0}, 'groups must divide'),
        ({'stride': 0}, 'stride must be'),
        ({'layout': 'NCHW'}, 'layout must be'),
        ({'implementation': 'magic'}, 'implementation must be'),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {
        'x': np.zeros((3, 6, 6, 4), np.float32),
        'kernel': np.zeros((6, 6, 3, 3, 4, 8), np.float32),
    }
    with pytest.raises(ValueError, match=message) as error:
        conv_local(**(arguments | change))
    assert '\n' not in str(error.value)


def test_initial_scale_is_he_fan_out_of_one_position():
    kernel = he_normal(jax.random.key(0), (8, 8, 3, 3, 16, 32))
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (32 * 9)), rtol=0.02)


@pytest.mark.parametrize('layout', ['NHWC', 'HWNC'])
def test_module_is_a_drop_in_for_conv(layout):
    arguments = {'features': 8, 'kernel_size': 3, 'strides': 2, 'feature_group_count': 2}
    x = np.random.RandomState(0).randn(3, 8, 8, 4).astype(np.float32)
    shared = nn.Conv(**arguments | {'kernel_size': (3, 3)}, padding=1)
    params = shared.init(jax.random.key(0), x)['params'] | {'bias': jnp.arange(8.0)}
    expected = shared.apply({'params': params}, x)
    x = x if layout == 'NHWC' else x.transpose(1, 2, 0, 3)
    module = LocalConv(**arguments, padding=1, layout=layout)
    variables = module.init(jax.random.key(0), x)
    assert local.grids(module, x) == {'kernel': Grid.create(8, 3, 2, 1)}
    chex.assert_tree_all_finite(variables['params'])
    tiled = params | {'kernel': tile_kernel(params['kernel'], (4, 4))}
    chex.assert_trees_all_equal_shapes(variables['params'], tiled)
    y = module.apply({'params': tiled}, x)
    assert_same(y if layout == 'NHWC' else y.transpose(2, 0, 1, 3), expected)


def test_module_computes_in_its_dtype_and_keeps_float32_parameters():
    module = LocalConv(4, 3, dtype=jnp.bfloat16)
    x = jnp.ones((2, 5, 5, 3))
    variables = module.init(jax.random.key(0), x)
    assert variables['params']['kernel'].dtype == jnp.float32
    assert module.apply(variables, x).dtype == jnp.bfloat16


@pytest.mark.parametrize('implementation', local.IMPLEMENTATIONS)
def test_what_is_not_finite_stays_where_it_is_seen(implementation):
    """The first pixel of the first example is seen by one neuron, without padding."""
    shape = {
        'size': (5, 4), 'kernel_size': (2, 3), 'stride': (1, 1), 'padding': 'VALID', 'groups': 1,
        'layout': 'NHWC', 'channels': 2, 'examples': 3,
    }  # fmt: skip
    x, kernel, _ = operands(shape)
    x[0, 0, 0, 0] = np.nan
    y, gradients = jax.vjp(layer(shape, implementation), x, kernel)
    assert np.isnan(y[0, 0, 0]).all() and np.isfinite(y[1:]).all()
    assert np.isnan(y).any(-1).sum() == 1
    dx, dkernel = gradients(jnp.ones_like(y))
    assert np.isfinite(dx).all()  # it does not depend on x
    assert np.isnan(dkernel).any((2, 3, 4, 5)).sum() == 1
