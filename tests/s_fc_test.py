"""A network whose neurons see the whole image, and how local their weights are: by brute force."""

import functools

import jax
import numpy as np
import pytest
import tiny_runs

from experiments.measure import locality
from experiments.models.s_fc import SFC
from lcn_jax.layer.grid import Grid
from lcn_jax.training import checkpoint
from lcn_jax.training.experiment import Experiment

RANDOM = np.random.default_rng(0)


def test_every_neuron_sees_every_pixel_once():
    model = SFC(width=2, image_size=6, num_classes=3)
    shapes = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), np.zeros((1, 6, 6, 1))
    )
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    kernel = variables['params']['conv']['kernel']
    assert kernel.shape == (3, 3, 6, 6, 1, 2)
    taps = RANDOM.permutation(36).reshape(6, 6)
    kernel[..., 0, 0] = 2.0**-5 * (taps + 1)
    apply = jax.jit(functools.partial(model.apply, train=False, capture_intermediates=True))
    images = np.eye(36, dtype=np.float32).reshape(36, 6, 6, 1)  # a pixel each
    _, state = apply(variables, images)
    (seen,) = state['intermediates']['conv']['__call__']
    for position in np.ndindex(3, 3):
        np.testing.assert_allclose(np.sort(seen[:, *position, 0]) * 32, np.arange(1, 37))
        row, column = (2 * position[0] - 2) % 6, (2 * position[1] - 2) % 6  # where tap 0, 0 is
        assert seen[6 * row + column, *position, 0] * 32 == taps[0, 0] + 1


@pytest.mark.parametrize(
    'grid',
    [
        Grid.create((6, 5), (6, 5), 2, 'CIRCULAR'),
        Grid.create((6, 5), (3, 4), padding=2),
        Grid.create((6, 7), 3, padding='SAME', kernel_dilation=2),
        Grid.create((9,), (4,), padding='SAME'),
    ],
    ids=['circular', 'padded', 'dilated', 'one dimension'],
)
def test_the_radius_is_that_of_a_loop_over_neurons(grid):
    kernel = RANDOM.standard_normal((*grid.output_size, *grid.kernel_size, 2, 3))
    kernel[..., 1] *= RANDOM.integers(0, 2, kernel.shape[:-1])
    kernel[(0,) * grid.dimensions] = 0  # dead
    variances = []
    for *position, o in np.ndindex(*grid.output_size, 3):
        squares = {}
        for tap in np.ndindex(*grid.kernel_size):
            pixel = [
                grid.starts(axis)[position[axis]] + tap[axis] * grid.kernel_dilation[axis]
                for axis in range(grid.dimensions)
            ]
            if grid.circular:
                pixel = [p % n for p, n in zip(pixel, grid.input_size)]
            if all(0 <= p < n for p, n in zip(pixel, grid.input_size)):
                squares[tuple(pixel)] = (kernel[(*position, *tap)][:, o] ** 2).sum()
        total = sum(squares.values())
        if total:
            centre = sum(e * np.array(x) for x, e in squares.items()) / total
            from_centre = (e * ((x - centre) ** 2).sum() for x, e in squares.items())
            variances.append(sum(from_centre) / total)
    assert locality.radius(kernel, grid) == pytest.approx(np.sqrt(np.mean(variances)))


def test_the_radius_of_one_weight_two_and_all():
    grid = Grid.create(8, (8, 8), 8, 'VALID')
    kernel = np.zeros((1, 1, 8, 8, 1, 1))
    kernel[0, 0, 3, 2] = 5
    assert locality.radius(kernel, grid) == pytest.approx(0)
    kernel[0, 0, 3, 4] = -5
    assert locality.radius(kernel, grid) == pytest.approx(1)
    kernel[:] = 0.1
    assert locality.radius(kernel, grid) == pytest.approx(np.sqrt(2 * (8**2 - 1) / 12))


def test_shuffling_spreads_fields_but_leaves_what_all_neurons_have_in_common():
    grid, shuffled = Grid.create(16, (16, 16), 2, 'CIRCULAR'), np.random.default_rng
    whole = RANDOM.standard_normal((8, 8, 16, 16, 1, 4))
    uniform = np.sqrt(2 * (16**2 - 1) / 12)
    assert locality.radius(whole, grid) == pytest.approx(uniform, rel=0.02)
    assert locality.radius(whole, grid, shuffled(0)) == pytest.approx(uniform, rel=0.02)
    # The first taps of each position, where the image does not end: a field of its own.
    fields = np.zeros_like(whole)
    fields[..., :4, :4, :, :] = whole[..., :4, :4, :, :]
    inside = [(p * 2 - 7) % 16 <= 12 for p in range(8)]
    fields *= np.outer(inside, inside)[..., None, None, None, None]
    assert locality.radius(fields, grid) < 1.6
    assert locality.radius(fields, grid, shuffled(0)) > 0.6 * uniform
    # Only the upper half of the image, which all neurons see: shuffling changes nothing.
    first = grid.starts(0)
    half = whole * ((first[:, None] + np.arange(16)) % 16 < 8)[:, None, :, None, None, None]
    expected = np.sqrt((16**2 - 1) / 12 + (8**2 - 1) / 12)
    assert locality.radius(half, grid) == pytest.approx(expected, rel=0.02)
    assert locality.radius(half, grid, shuffled(0)) == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
def test_the_binary_measures_a_run(tmp_path):
    config = tiny_runs.get_config('resident')
    config.sleep.rule, config.model.name = 'none', 'experiments.models.s_fc:s_fc'
    config.optimizer, config.model.width = 'beta_lasso', 2
    shapes = Experiment.create(config).shapes
    state = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    state.params['conv']['kernel'][:, :, ::2] = 0
    with (
        checkpoint.claim(str(tmp_path), config),
        checkpoint.Checkpoints(str(tmp_path)) as checkpoints,
    ):
        checkpoints.save(5, checkpoint.Snapshot.of(state), 0.5)
    done = tiny_runs.call('locality', f'--workdir={tmp_path}')
    assert done.returncode == 0, done.stderr
    name, *numbers, alive = done.stdout.splitlines()[-1].split()
    rows = np.sqrt((np.arange(1, 8, 2) - 4.0).var() + (8**2 - 1) / 12)
    before, *after = map(float, numbers)
    assert name == 'conv' and before == pytest.approx(np.sqrt(2 * 63 / 12), rel=0.1)
    assert after == pytest.approx([rows, rows], abs=0.2) and alive == '50.0%'
