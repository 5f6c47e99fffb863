"""The layer in C++: its three sums against brute force in float64, with kernels of both kinds."""

import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import compiled, over_cases

from lcn_jax.layer.backends import native
from lcn_jax.layer.backends.native import library
from lcn_jax.layer.functional import conv_local
from lcn_jax.layer.grid import Grid

pytestmark = pytest.mark.optimised  # what users run


@pytest.fixture
def built():
    if not native.available():
        pytest.skip(native.describe())


def _grid(output, taps, stride=None, dilation=None):
    """A grid with these positions, and pixels that no position sees at the end of each axis."""
    stride = stride or (1,) * len(output)
    dilation = dilation or (1,) * len(output)
    axes = zip(output, taps, stride, dilation)
    size = tuple((o - 1) * s + (t - 1) * d + s for o, t, s, d in axes)
    return Grid.create(size, taps, stride, 'VALID', dilation)


def _arrays(grid, groups, examples, channels, features):
    """x, kernel and dy, random numbers that bfloat16 can hold."""
    rng = np.random.default_rng(0)
    shapes = [
        (*grid.input_size, examples, groups * channels),
        (*grid.output_size, *grid.kernel_size, channels, groups * features),
        (*grid.output_size, examples, groups * features),
    ]
    return [rng.normal(size=shape).astype(jnp.bfloat16).astype(np.float64) for shape in shapes]


def _brute_force(x, kernel, dy, grid, groups):
    """y, dx and dkernel, neuron by neuron."""
    y, dx, dkernel = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(kernel.shape)
    channels, features = kernel.shape[-2], kernel.shape[-1] // groups
    low = np.array([low for low, _ in grid.padding])
    for p in np.ndindex(*grid.output_size):
        for t in np.ndindex(*grid.kernel_size):
            at = np.array(p) * grid.stride + np.array(t) * grid.kernel_dilation - low
            q = tuple(at // grid.input_dilation)
            on_pixel = (at % grid.input_dilation == 0).all()
            if not on_pixel or min(q) < 0 or (np.array(q) >= grid.input_size).any():
                continue
            for g in range(groups):
                c = slice(g * channels, (g + 1) * channels)
                o = slice(g * features, (g + 1) * features)
                y[p][:, o] += x[q][:, c] @ kernel[p + t][:, o]
                dx[q][:, c] += dy[p][:, o] @ kernel[p + t][:, o].T
                dkernel[p + t][:, o] += x[q][:, c].T @ dy[p][:, o]
    return y, dx, dkernel


def _brute_force_shared(x, kernel, dy, grid, groups):
    """The same for one kernel at all positions."""
    positions = tuple(range(grid.dimensions))
    tiled = np.broadcast_to(kernel, (*grid.output_size, *kernel.shape))
    y, dx, dkernel = _brute_force(x, tiled, dy, grid, groups)
    return y, dx, dkernel.sum(positions)


def _sums(x, kernel, dy, grid, groups):
    of = native if kernel.ndim == 2 * grid.dimensions + 2 else native.Convolution
    return (
        of.forward(x, kernel, grid, groups),
        of.input_gradient(dy, kernel, grid, groups),
        of.kernel_gradient(x, dy, grid, groups),
    )


# (grid, groups, examples, channels, features): whole and broken tiles of every width, parts of the
# depth (more than 192 channels, features or examples), gaps between receptive fields, padding,
# zeros between pixels, positions that see nothing, no examples.
CASES = {
    'plain': (_grid((3, 4), (3, 3)), 1, 7, 16, 16),
    'one example': (_grid((2, 3), (3, 2), (2, 1), (1, 3)), 1, 1, 3, 5),
    'sequence': (_grid((7,), (20,), (5,)), 1, 9, 4, 8),
    'sequence with gaps': (_grid((3,), (2,), (4,)), 1, 6, 1, 1),
    'volume in groups': (_grid((3, 2, 2), (2, 3, 1), (1, 2, 3), (2, 1, 1)), 3, 13, 1, 10),
    'two groups': (_grid((2, 2), (2, 2)), 2, 19, 24, 36),
    'many channels': (_grid((1, 2), (1, 2)), 1, 5, 300, 40),
    'many features': (_grid((2,), (3,), dilation=(2,)), 1, 6, 12, 270),
    'many examples': (_grid((2, 1), (1, 2)), 1, 290, 7, 20),
    'padded': (Grid.create((4, 5), 3, 1, 1), 1, 7, 16, 16),
    'padded more than seen': (Grid.create((2, 1), (2, 3), 2, ((3, 1), (0, 5))), 2, 3, 3, 6),
    'dilated input': (Grid.create((3, 4), 3, (1, 2), 'SAME', (2, 1), (2, 3)), 1, 5, 5, 9),
    'causal': (Grid.create((9,), (3,), padding='CAUSAL', kernel_dilation=(2,)), 2, 4, 6, 8),
    'padded volume': (Grid.create((3, 2, 4), (2, 3, 1), 1, 'SAME'), 2, 3, 2, 12),
    'many positions': (Grid.create((40,), (3,)), 1, 2, 3, 4),
    'no examples': (_grid((2, 2), (2, 2)), 1, 0, 4, 4),
}


def _operands(case, shared):
    grid, groups, *sizes = CASES[case]
    x, kernel, dy = _arrays(grid, groups, *sizes)
    return x, kernel[(0,) * grid.dimensions] if shared else kernel, dy


@functools.cache
def _expected(case, shared):
    """The sums, and those of absolute values, which bound what rounding in float32 can do."""
    grid, groups, *_ = CASES[case]
    brute_force = _brute_force_shared if shared else _brute_force
    arrays = _operands(case, shared)
    return (
        brute_force(*arrays, grid, groups),
        brute_force(*map(np.abs, arrays), grid, groups),
    )


DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
_all_sums = over_cases(
    lambda case, *arrays: _sums(*arrays, *CASES[case[0]][:2]),
    [(case, shared, dtype) for case in CASES for shared in (False, True) for dtype in DTYPES],
    lambda case: [array.astype(DTYPES[case[2]]) for array in _operands(*case[:2])],
)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('shared', [False, True], ids=['local', 'shared'])
@pytest.mark.parametrize('dtype', DTYPES)
def test_sums_are_those_of_brute_force(built, case, shared, dtype):
    _, sums = _all_sums((case, shared, dtype))
    relative = 2.0**-8 if dtype == 'bfloat16' else 0  # half a unit in the last of 8 digits
    for got, want, bound in zip(sums, *_expected(case, shared), strict=True):
        assert got.dtype == dtype and got.shape == want.shape
        error = np.abs(np.asarray(got, np.float64) - want)
        assert (error <= relative * np.abs(want) + 1e-6 * bound).all()


def test_infinity_times_zero_is_nan_where_it_is_seen_and_nowhere_else(built):
    grid = _grid((5, 5), (3, 3))
    x, kernel, _ = _arrays(grid, 1, 3, 2, 3)
    x[2, 4, 1, 0] = np.inf
    kernel[:] = 0
    sees = np.zeros((5, 5), bool)
    sees[:3, 2:5] = True  # a 3×3 receptive field that begins at row i, column j
    forward = compiled(functools.partial(native.forward, grid=grid, groups=1))
    y = forward(x.astype(np.float32), kernel.astype(np.float32))
    assert (np.isnan(y[:, :, 1]) == sees[..., None]).all()
    assert not np.isnan(y[:, :, [0, 2]]).any()


def test_nan_survives_rounding_to_bfloat16(built):
    grid = _grid((1,), (1,))
    x, kernel, _ = _arrays(grid, 1, 2, 1, 1)
    x[0, 1] = np.nan
    forward = compiled(functools.partial(native.forward, grid=grid, groups=1))
    y = forward(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert list(np.isnan(np.asarray(y, np.float32).ravel())) == [False, True]


BITS = """
    import hashlib
    import jax
    import numpy as np
    from lcn_jax.layer.backends import native
    from lcn_jax.layer.backends.sums import summed
    from lcn_jax.layer.grid import Grid
    grid = Grid.create(12, 3)
    rng = np.random.default_rng(0)
    x, kernel, dy = (
        jax.numpy.asarray(rng.normal(size=shape), 'float32')
        for shape in ((12, 12, 40, 8), (12, 12, 3, 3, 8, 12), (12, 12, 40, 12))
    )
    results = (
        native.forward(x, kernel, grid, 1),
        native.input_gradient(dy, kernel, grid, 1),
        native.kernel_gradient(x, dy, grid, 1),
        native.Convolution.kernel_gradient(x, dy, grid, 1),
        *summed(x, jax.numpy.zeros((1, 1, 1, 8)), x, (0, 1, 2)),
    )
    print(hashlib.sha256(b''.join(np.asarray(r).tobytes() for r in results)).hexdigest())
"""


@pytest.mark.slow
def test_threads_change_no_bit(built):
    def bits(threads):
        environment = {**os.environ, 'NPROC': threads, 'JAX_PLATFORMS': 'cpu'}
        command = [sys.executable, '-c', textwrap.dedent(BITS)]
        root = Path(__file__).parent.parent
        return subprocess.run(
            command, env=environment, cwd=root, check=True, capture_output=True, text=True
        ).stdout

    assert bits('1') == bits('4')


def test_devices_that_share_the_threads_do_not_block_each_other(built):
    grid = _grid((6, 6), (3, 3))
    x, kernel, _ = _arrays(grid, 1, 16, 8, 8)
    devices = jax.device_count()
    xs = np.stack([x + i for i in range(devices)]).astype(np.float32)
    kernel = kernel.astype(np.float32)
    forward = functools.partial(native.forward, grid=grid, groups=1)
    run = jax.pmap(forward, in_axes=(0, None))
    ys = [run(xs, kernel) for _ in range(20)][-1]
    alone = jax.jit(forward)
    for x, y in zip(xs, jax.device_get(ys)):
        np.testing.assert_array_equal(y, alone(x, kernel))


def test_operands_in_another_layout_are_brought_into_order(built):
    grid = _grid((3, 4), (2, 2))
    x, kernel, dy = (array.astype(np.float32) for array in _arrays(grid, 1, 5, 3, 4))

    @jax.jit
    def from_examples_first(x_NHWC, kernel_OC):
        x, kernel = x_NHWC.transpose(1, 2, 0, 3), kernel_OC.swapaxes(-1, -2)
        return native.forward(x, kernel, grid, 1)

    y = from_examples_first(x.transpose(2, 0, 1, 3), kernel.swapaxes(-1, -2))
    want, _, _ = _brute_force(x, kernel, dy, grid, 1)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


def test_a_dtype_that_it_does_not_have_is_refused(built):
    x, kernel = np.ones((1, 4, 4, 2), np.float16), np.ones((4, 4, 3, 3, 2, 2), np.float16)
    with pytest.raises(ValueError, match='it computes in float32 and bfloat16, not in float16'):
        conv_local(x, kernel, implementation='native')
    assert conv_local(x, kernel).dtype == np.float16


def test_it_is_not_built_for_other_implementations(monkeypatch):
    """On a GPU machine, for example, whose default is another."""
    monkeypatch.setattr(library, '_load', lambda: pytest.fail('the library was asked for'))
    x, kernel = np.ones((1, 4, 4, 2), np.float32), np.ones((4, 4, 3, 3, 2, 2), np.float32)
    for implementation in ('patches', 'lax'):
        jax.jit(functools.partial(conv_local, implementation=implementation)).lower(x, kernel)
