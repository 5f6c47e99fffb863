"""The picture of kernels: its positions by brute force, and the binary as its users meet it."""

import jax
import numpy as np
import pytest
import tiny_runs

from experiments.reports import kernels
from lcn_jax.layer.grid import Grid
from lcn_jax.sleep.pools import pool_numbers
from lcn_jax.training import checkpoint
from lcn_jax.training.experiment import Experiment

GRID = Grid.create((8, 7), 3)


@pytest.mark.parametrize('border', ['include', 'exclude'])
def test_positions_are_of_one_largest_pool_and_spread_over_it(border):
    pools = pool_numbers(GRID, border)
    sizes = np.bincount(pools[pools >= 0])
    positions = kernels.positions_of_a_pool(GRID, 4, border=border)
    assert len(set(map(tuple, positions))) == len(positions) == 4
    (pool,) = set(pools[tuple(positions.T)])
    assert sizes[pool] == sizes.max()
    members = np.argwhere(pools == pool)
    np.testing.assert_array_equal(positions[[0, -1]], members[[0, -1]])
    every = kernels.positions_of_a_pool(GRID, 100, border=border)
    np.testing.assert_array_equal(every, members)


def test_positions_need_a_pool():
    with pytest.raises(ValueError, match='none is in a pool'):
        kernels.positions_of_a_pool(Grid.create(2, 3), 4, border='exclude')


@pytest.mark.parametrize('noise', [1e-6, 0.1])
def test_deviations_that_are_rounding_errors_are_not_drawn_in_full_colour(noise):
    rng = np.random.default_rng(0)
    equal = np.full((8, 7, 3, 3, 1, 2), 0.5, np.float32)
    before = equal + (noise * rng.normal(size=equal.shape)).astype(np.float32)
    figure = kernels.draw(before, equal, GRID, border='include')
    maps = [ax.images[0] for ax in figure.subfigs[1].axes if ax.images]
    ((low, high),) = {shown.get_clim() for shown in maps[:2]}
    largest = np.max(maps[0].get_array())
    assert low == 0 and noise / 10 < largest < 2 * noise
    assert high == pytest.approx(largest if noise == 0.1 else 0.5e-3, rel=1e-2)


@pytest.fixture(scope='module')
def workdirs(tmp_path_factory):
    """With checkpoints of runs with and without a sleep rule, and of a convolutional one."""
    folder = tmp_path_factory.mktemp('runs')
    rng = np.random.RandomState(0)
    for name, changes in {
        'hebbian': {},
        'awake': {'sleep.rule': 'none'},
        'conv': {'sleep.rule': 'none', 'connectivity': 'conv'},
    }.items():
        config = tiny_runs.get_config('resident')
        config.update_from_flattened_dict({'model.stage_sizes': (1,), **changes})
        shapes = Experiment.create(config).shapes
        state = jax.tree.map(lambda s: np.asarray(rng.randn(*s.shape), s.dtype), shapes)
        workdir = str(folder / name)
        (folder / name).mkdir()
        with (
            checkpoint.claim(workdir, config),
            checkpoint.Checkpoints(workdir) as checkpoints,
        ):
            checkpoints.save(5, checkpoint.Snapshot.of(state), 0.5)
    return folder


def show(workdir, layer, out, *more):
    return tiny_runs.call(
        'show_kernels', f'--workdir={workdir}', f'--layer={layer}', f'--out={out}', *more
    )


@pytest.mark.parametrize(
    'name, layer', [('hebbian', 'stem_conv'), ('awake', 'stage1_block1_conv2')]
)
@pytest.mark.slow
def test_a_picture_of_a_layer_is_written(workdirs, name, layer, tmp_path):
    out = tmp_path / 'made' / 'kernels.png'
    done = show(workdirs / name, layer, out)
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout
    assert out.read_bytes().startswith(b'\x89PNG')


@pytest.mark.slow
def test_a_map_of_activations_is_written(workdirs, tmp_path):
    done = show(workdirs / 'conv', 'stem', tmp_path / 'map.png', '--map=entropy')
    assert done.returncode == 0, done.stderr
    assert 'neighbours that prefer the same class' in done.stdout
    assert (tmp_path / 'map.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize(
    'name, layer, more, message',
    [
        ('hebbian', 'stem', [], "called 'stem'; known: "),
        ('hebbian', 'pooled', ['--map=entropy'], 'pooled cannot be mapped'),
        ('hebbian', 'stem_conv', ['--channel=1'], 'no channel 1 of feature 0'),
        ('hebbian', 'stem_conv', ['--checkpoint=3'], "no checkpoint '3'"),
        ('conv', 'stem_conv', [], 'has no local kernels'),
        ('nothing', 'stem_conv', [], 'holds no run'),
    ],
)
def test_a_mistake_is_one_line(workdirs, name, layer, more, message, tmp_path):
    done = show(workdirs / name, layer, tmp_path / 'kernels.png', *more)
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr
    assert message in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / 'kernels.png').exists()
