"""Sums of the layer, the sleep, the SNR and the loss over long axes, against float64 in numpy.

A compiler can get these wrong: on a CPU, JAX 0.10.2 computes wrong values from row 32,769 of a
product on (docs/versions.md). The sizes here are beyond that, and odd.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import layer_in_numpy, pool_means

from lcn_jax import sleep
from lcn_jax.layer.functional import conv_local
from lcn_jax.layer.grid import Grid
from lcn_jax.sleep.patterns import hebbian_for
from lcn_jax.sleep.pools import pool_numbers
from lcn_jax.sleep.similarity import weight_snr
from lcn_jax.training.metrics import Sums

LONG = (32_769, 40_001)
TOLERANCE = 1e-4


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_close(actual, expected):
    """Relative to the largest entry: the terms of a sum may cancel."""
    assert actual.shape == expected.shape
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=TOLERANCE)


def test_a_product_squared_and_summed():
    """JAX issue 39103: if this fails, the installed JAX is one that setup.cfg excludes."""
    rows, matrix = normal(0, LONG[0], 3), normal(1, 3, 3)
    squares = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows)
    assert_close(squares, ((rows.astype(np.float64) @ matrix.T) ** 2).sum(1))


@pytest.mark.parametrize('implementation', ['direct', 'patches'])
@pytest.mark.parametrize(
    'examples, size, stride, padding, channels, features',
    [
        (32_769, (2, 2), 1, 0, 1, 3),  # one position
        (1, (181, 223), 1, 1, 3, 1),  # 40,363 positions
        (149, (31, 32), 2, 1, 3, 3),  # 35,760 rows, with a stride
    ],
)
def test_the_layer(implementation, examples, size, stride, padding, channels, features):
    grid = Grid.create(size, 2 if examples > 32_768 else 3, stride, padding)
    x = normal(0, examples, *size, channels)
    kernel = normal(1, *grid.output_size, *grid.kernel_size, channels, features)
    dy = normal(2, examples, *grid.output_size, features)

    @jax.jit
    def value_and_gradients(x, kernel, dy):
        def layer(x, kernel):
            return conv_local(
                x, kernel, stride=stride, padding=padding, implementation=implementation
            )

        y, pullback = jax.vjp(layer, x, kernel)
        return y, *pullback(dy)

    with jax.default_matmul_precision('float32'):
        results = value_and_gradients(x, kernel, dy)
    case = dict(
        size=size, kernel_size=grid.kernel_size, stride=stride, padding=padding, kernel_dilation=1,
        input_dilation=1, groups=1,
    )  # fmt: skip
    exact = layer_in_numpy(case, *map(np.float64, (x, kernel, dy)))
    for actual, expected in zip(results, exact):
        assert_close(actual, expected)


@pytest.mark.parametrize('border', ['include', 'exclude'])
@pytest.mark.parametrize('kernel_size', [1, (2, 3)])
def test_the_means_of_pools(kernel_size, border):
    grid = Grid.create((223, 181), kernel_size)  # one pool of 40,363, or six
    kernel = normal(0, *grid.output_size, *grid.kernel_size, 3, 2)
    means = pool_means(kernel.astype(np.float64), grid, border)
    expected = np.where(np.isnan(means), kernel, means)
    shared = jax.jit(lambda kernel: sleep.mean(kernel, grid, None, border=border))(kernel)
    assert_close(shared, expected)


def test_the_hebbian_sleep():
    """Neuron by neuron and step by step, as the rule is written."""
    patterns = LONG[1]
    options = dict(border='include', gamma=0.1, learning_rate=0.3)
    grid = Grid.create((4, 5), (2, 3), padding='VALID')
    kernel = 1 + normal(0, *grid.output_size, *grid.kernel_size, 1, 2)
    shown = normal(1, 3, patterns, *grid.kernel_size, 1)

    start = kernel.reshape(-1, 6, 2).astype(np.float64)
    pools = pool_numbers(grid).ravel()
    corners = np.stack(np.meshgrid(grid.starts(0), grid.starts(1), indexing='ij'), -1)
    weights = start.copy()
    for pattern in shown.astype(np.float64):
        # The patch that begins at pixel (a, b) of a plane tiled with the pattern.
        x = [np.roll(pattern, (-a, -b), (1, 2)).reshape(-1, 6) for a, b in corners.reshape(-1, 2)]
        z = np.stack([x_i @ w_i for x_i, w_i in zip(x, weights)])
        change = np.empty_like(weights)
        for i, x_i in enumerate(x):
            change[i] = x_i.T @ (z[i] - z[pools == pools[i]].mean(0)) / patterns
        weights -= options['learning_rate'] * (change + options['gamma'] * (weights - start))

    with jax.default_matmul_precision('float32'):
        slept = jax.jit(lambda *args: hebbian_for(*args, **options), static_argnums=1)(
            kernel, grid, shown
        )
    assert_close(slept, weights.reshape(kernel.shape))


@pytest.mark.parametrize('shape', [(LONG[0], 9), (LONG[1], 3, 4)])
def test_the_weight_snr(shape):
    """Of one long pool, and of many short ones."""
    weights = 1 + normal(0, *shape)
    exact = weights.astype(np.float64)
    expected = (exact.mean(-2) ** 2 / exact.var(-2)).mean(-1)
    np.testing.assert_allclose(jax.jit(weight_snr)(weights), expected, rtol=TOLERANCE)


@pytest.mark.parametrize('examples, classes', [(LONG[0], 3), (LONG[1], 10)])
def test_the_sums_of_loss_and_hits(examples, classes):
    logits = 3 * normal(0, examples, classes)
    rng = np.random.default_rng(1)
    labels, exists = rng.integers(classes, size=examples), rng.random(examples) < 0.9

    exact = logits.astype(np.float64)
    losses = np.log(np.exp(exact).sum(1)) - exact[np.arange(examples), labels]
    ranks = (logits > logits[np.arange(examples), labels][:, None]).sum(1)
    sums = jax.jit(Sums.of)(logits, labels, exists)
    np.testing.assert_allclose(sums.loss, losses[exists].sum(), rtol=1e-5)
    assert sums.top1 == (ranks[exists] < 1).sum()
    assert sums.top5 == (ranks[exists] < 5).sum()
    assert sums.count == exists.sum()
