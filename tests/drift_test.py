"""The common part of what neurons learn awake, by brute force over a layer's pools."""

import jax
import numpy as np
import pytest
import tiny_runs

from experiments.measure import drift
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.local_parameters import LocalParameter
from lcn_jax.sleep.pools import pool_numbers
from lcn_jax.training import inputs, parallel, train
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.metrics import Sums


def test_the_common_part_of_independent_changes_is_that_of_a_mean():
    grid = Grid.create((9, 9), 3)  # nine pools of nine neurons
    assert drift.independent(grid, 'include') == pytest.approx(1 / 3)
    assert drift.independent(LocalParameter(grid, joined=True), 'include') == pytest.approx(1 / 9)
    assert drift.independent(grid, 'exclude') == pytest.approx((9 / 49) ** 0.5)


@pytest.mark.slow
def test_the_common_part_of_a_layers_changes():
    config = tiny_runs.get_config('resident')
    config.pools.border = 'exclude'
    experiment = Experiment.create(config)
    state = jax.device_get(jax.jit(experiment.initial_state)(jax.random.key(1)))
    found = drift.common_parts(experiment, state, seed=0, counts=[1, 3])

    data_key = train.keys(0)[1]
    images = inputs.make(config, data_key)
    wake = experiment.wake
    now, sums = parallel.replicate((state, Sums.zero()))
    pools = pool_numbers(experiment.network.grids['stem_conv']['kernel'], 'exclude')
    first = state.params['stem_conv']['kernel'].astype(np.float64)
    for steps, part in zip([1, 3], found):
        wanted = steps - int(parallel.first(now).step)
        for pixels, order, _ in images.train(0, 1):
            now, sums = wake(now, sums, pixels, order, data_key, wanted)
        changes = parallel.first(now).params['stem_conv']['kernel'] - first
        common = np.full_like(changes, np.nan)
        for pool in range(pools.max() + 1):
            common[pools == pool] = changes[pools == pool].mean(0)
        in_pool = pools >= 0
        ratio = np.sqrt((common[in_pool] ** 2).mean() / (changes[in_pool] ** 2).mean())
        assert part['stem_conv'] == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize(
    ('changes', 'more', 'message'),
    [
        ({'connectivity': 'conv', 'sleep.rule': 'none'}, [], 'has no local kernels'),
        ({}, ['--steps=1,x'], '--steps=1,x must be a list'),
        ({}, [], 'there is no checkpoint'),
    ],
)
def test_a_mistake_is_one_line(changes, more, message, tmp_path):
    config = tiny_runs.get_config('resident')
    config.update_from_flattened_dict(changes)
    (tmp_path / 'config.json').write_text(config.to_json_best_effort())
    done = tiny_runs.call('drift', f'--workdir={tmp_path}', *more)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert message in done.stderr.strip().splitlines()[-1]
