"""What the tests compare with: the layer and the sleep rules written as they are defined, slowly.

Also the authors' measures of sharing, and what several tests begin with.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lcn_jax.layer.grid import Grid
from lcn_jax.layer.local_parameters import LocalParameter
from lcn_jax.sleep.patterns import Field, grouped_patterns, map_deviations, seen_weights
from lcn_jax.sleep.pools import Neurons, Pools, num_pools, pool_numbers
from lcn_jax.sleep.similarity import _moments
from lcn_jax.training.state import TrainState, of_variables

CIRCUIT = dict(
    gamma=1e-3,
    learning_rate=2.5e-4,
    patterns_per_weight=4,
    alpha=10.0,
    tau=30.0,
    b=1.0,
    momentum=0.95,
    steps_per_pattern=150,
)
HEBBIAN = dict(gamma=0.1, learning_rate=0.05, steps=20, patterns_per_step=16, momentum=0.0)

# Odd, even and non-square kernels and inputs, strides, and a 1×1 kernel.
GRIDS = [
    Grid.create((9, 7), 3, 1, 1),
    Grid.create((8, 8), (2, 3), (1, 2), 'SAME'),
    Grid.create((12, 10), 4, 2, 1),
    Grid.create((19, 17), 5, 2, 2),
    Grid.create((6, 5), 1, 2, 0),
    LocalParameter(Grid.create((8, 8), (2, 3), (1, 2), 'SAME'), joined=True),
]
each_grid = pytest.mark.parametrize('grid', GRIDS, ids=str)
each_border = pytest.mark.parametrize('border', ['include', 'exclude'])


def random_kernel(neurons: Neurons, channels: int = 2, features: int = 3, seed: int = 0):
    """(*output, *kernel, channels, features) float32 around 1."""
    shape = (*neurons.output_size, *neurons.kernel_size, channels, features)
    return 1 + np.random.RandomState(seed).randn(*shape).astype(np.float32)


def pool_means(kernel: np.ndarray, neurons: Neurons, border: str) -> np.ndarray:
    """Of (*output, ...): the mean of its pool at every position, NaN where it is in no pool."""
    pools, kernel = pool_numbers(neurons, border), np.asarray(kernel)
    means = np.full(kernel.shape, np.nan)
    for pool in range(num_pools(neurons)):
        if (pools == pool).any():
            means[pools == pool] = kernel[pools == pool].mean(0)
    return means


def compiled(function, **options):
    """The function in one program, with results in numpy; the options are those of `jax.jit`."""
    program = jax.jit(function, **options)
    return lambda *arguments, **named: jax.device_get(program(*arguments, **named))


def over_cases(function, cases, operands):
    """`function(case, *operands(case))` of all cases in one program; compiling each takes longer.

    Returns a function case -> (operands, what `function` returns), in numpy.
    """

    @functools.cache
    def computed():
        given = [operands(case) for case in cases]

        @compiled
        def program(given):
            return [function(case, *arrays) for case, arrays in zip(cases, given, strict=True)]

        return list(zip(given, program(given), strict=True))

    return lambda case: computed()[cases.index(case)]


def over_grids(function, neurons, borders=('include', 'exclude')):
    """`function(kernel, grid, border)` of random kernels, for all grids and borders in one program.

    Returns a function (grid, border) -> (kernel, what `function` returns), in numpy.
    """
    of_case = over_cases(
        lambda case, kernel: function(kernel, *case),
        [(grid, border) for grid in neurons for border in borders],
        lambda case: (random_kernel(case[0]),),
    )

    def of_grid(grid, border):
        (kernel,), found = of_case((grid, border))
        return kernel, found

    return of_grid


def initial_state(model, optimizer, image_shape: tuple[int, ...], key: jax.Array) -> TrainState:
    """The state of a model of images before the first step, without what full steps keep."""
    variables = model.init(key, jnp.zeros((1, *image_shape)), train=False)
    return of_variables(variables, optimizer, kept={})


# ---- The layer. ----------------------------------------------------------------------------------
# A case is a dict of the arguments of `conv_local` and the sizes of its operands.


def per_axis(value, dimensions):
    return (value,) * dimensions if isinstance(value, int) else tuple(value)


def edges_of(case):
    """(low, high) of each axis, around the dilated input; 'CIRCULAR' is not among them."""
    dimensions = len(case['size'])
    size, kernel, stride, dilation, between = (
        np.array(per_axis(case[name], dimensions))
        for name in ('size', 'kernel_size', 'stride', 'kernel_dilation', 'input_dilation')
    )
    size, reach = (size - 1) * between + 1, (kernel - 1) * dilation + 1
    padding = case['padding']
    if padding == 'CAUSAL':
        return [(reach[0] - 1, 0)]
    if isinstance(padding, str):
        return lax.padtype_to_pads(size, reach, stride, padding)
    return [per_axis(edge, 2) for edge in per_axis(padding, dimensions)]


def taps_in_numpy(case, x):
    """x (N, *spatial, C) -> for each tap, what the positions see: (N, *output, C); and scatter.

    `scatter(tap, values)` adds what comes back to a tap into an array like x.
    """
    dimensions = len(case['size'])
    kernel, stride, dilation, between = (
        per_axis(case[name], dimensions)
        for name in ('kernel_size', 'stride', 'kernel_dilation', 'input_dilation')
    )
    # Every pixel of the padded input has the flat number of a pixel of x, or -1.
    numbers = np.arange(np.prod(case['size'])).reshape(case['size'])
    if case['padding'] == 'CIRCULAR':
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
        numbers = np.pad(numbers, [((r - 1) // 2, r // 2) for r in reach], mode='wrap')
    dilated = np.full([(n - 1) * d + 1 for n, d in zip(numbers.shape, between)], -1)
    dilated[tuple(slice(None, None, d) for d in between)] = numbers
    if case['padding'] != 'CIRCULAR':
        dilated = np.pad(dilated, edges_of(case), constant_values=-1)
    output = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, d, s in zip(dilated.shape, kernel, dilation, stride)
    ]
    flat = np.concatenate(
        [x.reshape(len(x), -1, x.shape[-1]), np.zeros((len(x), 1, x.shape[-1]))], 1
    )
    windows = {
        tap: dilated[
            tuple(
                slice(a * d, a * d + (n - 1) * s + 1, s)
                for a, d, n, s in zip(tap, dilation, output, stride)
            )
        ]
        for tap in np.ndindex(*kernel)
    }

    def scatter(dx_by_tap):
        total = np.zeros_like(flat)
        for tap, values in dx_by_tap.items():
            np.add.at(total, (slice(None), windows[tap]), values)
        return total[:, :-1].reshape(x.shape)

    return output, {tap: flat[:, window] for tap, window in windows.items()}, scatter


def layer_in_numpy(case, x, kernel, dy):
    """y, dx, dkernel in float64, tap by tap; x (N, *spatial, groups·C)."""
    groups, dimensions = case['groups'], len(case['size'])
    output, seen, scatter = taps_in_numpy(case, x)
    y, dkernel, dx = np.zeros(dy.shape), np.zeros(kernel.shape), {}
    for tap, patch in seen.items():
        at = (slice(None),) * dimensions + tap
        patch = patch.reshape(*patch.shape[:-1], groups, -1)
        weights = kernel[at].reshape(*output, patch.shape[-1], groups, -1)
        cotangent = dy.reshape(*dy.shape[:-1], groups, -1)
        y += np.einsum('n...gc,...cgo->n...go', patch, weights).reshape(dy.shape)
        dx[tap] = np.einsum('n...go,...cgo->n...gc', cotangent, weights)
        dx[tap] = dx[tap].reshape(*dx[tap].shape[:-2], -1)
        dkernel[at] = np.einsum('n...gc,n...go->...cgo', patch, cotangent).reshape(
            dkernel[at].shape
        )
    return y, scatter(dx), dkernel


# ---- The rules. ----------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=('neurons', 'border'))
def exact_for(
    kernel: jax.Array, neurons: Neurons, patterns: jax.Array, *, border: str, gamma: float
) -> jax.Array:
    """The fixed point for given patterns (S, B, kh, kw, C or C // groups), shown again and again.

    With C = E[x xᵀ]:  w* = (C + gamma I)⁻¹ (C mean_j w_j + gamma w), so the mean of a pool stays
    and the deviations are multiplied by gamma (C + gamma I)⁻¹. gamma must be positive.
    """

    field = Field.of(kernel, neurons)

    def map_of(inputs_SBK, seen_K):
        x = jnp.where(seen_K, inputs_SBK, 0).reshape(-1, field.weights)
        identity = jnp.eye(field.weights, dtype=kernel.dtype)
        covariance = x.T @ x / len(x)
        return gamma * jnp.linalg.solve(covariance + gamma * identity, identity)

    of_sets = jax.vmap(map_of, (None, 0))
    maps_GVKK = jax.vmap(of_sets, (0, None))(
        grouped_patterns(patterns, kernel, neurons), field.seen_VK
    )
    return map_deviations(kernel, neurons, border, maps_GVKK)


@functools.partial(jax.jit, static_argnames=('neurons', 'border'))
def hebbian_stepwise(
    kernel: jax.Array,
    neurons: Neurons,
    patterns: jax.Array,
    *,
    border: str,
    gamma: float,
    learning_rate: float,
    momentum: float = 0.0,
) -> jax.Array:
    """`hebbian_for` neuron by neuron, as the rule is written: slow, the reference for tests.

    One group only: patterns (S, B, kh, kw, C).
    """
    pools = Pools.of(neurons, border)
    start_PMKO = pools.split(kernel)
    order_PK, on_pixel_PK = seen_weights(neurons, kernel.shape[-2])

    def means_BP1O(z_BPMO):
        in_pool_PM1 = pools.members[..., None]
        total_BP1O = jnp.where(in_pool_PM1, z_BPMO, 0).sum(2, keepdims=True)
        return total_BP1O / np.maximum(in_pool_PM1.sum(1, keepdims=True), 1).astype(z_BPMO.dtype)

    def step(carry, pattern):
        weights, velocity = carry
        x_BPK = jnp.where(on_pixel_PK, pattern.reshape(len(pattern), -1)[:, order_PK], 0)
        z_BPMO = jnp.einsum('bpk,pmko->bpmo', x_BPK, weights)
        deviation = z_BPMO - means_BP1O(z_BPMO)
        hebb = jnp.einsum('bpmo,bpk->pmko', deviation, x_BPK) / len(pattern)
        velocity = momentum * velocity + learning_rate * (hebb + gamma * (weights - start_PMKO))
        return (weights - velocity, velocity), None

    (weights, _), _ = lax.scan(step, (start_PMKO, jnp.zeros_like(start_PMKO)), patterns)
    return pools.join(weights, kernel)


# ---- Measures of sharing. -----------------------------------------------------------------------


def inverse_weight_snr(weights: jax.Array, members: jax.Array | None = None) -> jax.Array:
    """Mean over weights j of var_i[w_ij] / mean_i[w_ij]^2, which the authors' simulation records.

    The mean of the inverse ratios, so not 1 / `weight_snr`. Arguments as there; a weight that is
    exactly equal in all members counts 0, one that only its mean makes vanish counts inf.
    """
    mean, var = _moments(weights, members)
    return jnp.where(var > 0, var / jnp.where(var > 0, mean, 1) ** 2, 0).mean(-1)


def interior_mean_over_std(kernel: np.ndarray, grid: Grid) -> np.ndarray:
    """Mean over all weights of |mean| / std over the positions that do not touch the border.

    What the authors' training logs call SNR: it is not squared, takes all positions for one pool,
    and divides the variance by N - 1. kernel: (Ho, Wo, kh, kw, C // groups, O). Returns a scalar,
    NaN if there are fewer than two such positions.
    """
    interior = kernel[~grid.touches_border()]
    return (np.abs(interior.mean(0)) / interior.std(0, ddof=1)).mean()
