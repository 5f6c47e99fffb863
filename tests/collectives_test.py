"""Bytes that devices send and keep: in programs whose collectives are known, and in a step."""

import functools

import jax
import jax.numpy as jnp
import pytest
import tiny_config
from jax import lax

from experiments.measure import collectives, footprint
from lcn_jax.layer.local_parameters import by_path, local_arrays
from lcn_jax.training import parallel
from lcn_jax.training.experiment import Experiment

pytestmark = pytest.mark.optimised  # XLA plans what is sent, and memory

N, AXIS = 8, 'devices'
NUMBERS = 24  # on each device

PROGRAMS = {  # and how many numbers a device sends
    'all-reduce': (lambda x: lax.psum(x, AXIS), 2 * NUMBERS * (N - 1) / N),
    'all-gather': (lambda x: lax.all_gather(x, AXIS), NUMBERS * (N - 1)),
    'all-to-all': (lambda x: lax.all_to_all(x, AXIS, 0, 0, tiled=True), NUMBERS * (N - 1) / N),
    'reduce-scatter': (
        lambda x: lax.psum_scatter(x, AXIS, tiled=True),
        NUMBERS * (N - 1) / N,
    ),
    'collective-permute': (
        lambda x: lax.ppermute(x, AXIS, [(i, (i + 1) % N) for i in range(N)]),
        NUMBERS,
    ),
}


@pytest.mark.parametrize('operation', PROGRAMS)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.int8])
def test_each_operation_by_hand(operation, dtype):
    program, numbers = PROGRAMS[operation]
    x = jnp.ones((N, NUMBERS), dtype)
    hlo = jax.pmap(lambda x: 2 * program(x), AXIS).lower(x).compile().as_text()
    sent = collectives.sent(hlo, N)
    itemsize = jnp.dtype(dtype).itemsize
    assert sum(sent.values()) == pytest.approx(numbers * itemsize)
    assert operation in sent


@functools.cache
def step(divides, images):
    """An experiment whose kernels are so large that nothing else counts, and its footprint."""
    config = tiny_config.get_config('lc')
    config.model.stage_sizes, config.model.width = (1,), 32
    config.shard_kernels, config.batch_size = divides, images
    experiment = Experiment.create(config)
    return experiment, footprint.of_step(experiment)


@pytest.mark.slow
def test_whole_kernels_send_gradients_and_divided_ones_activations():
    """An all-reduce of gradients has the size of the parameters, whatever the batch."""
    sent = {
        (divides, images): step(divides, images)[1].sent
        for divides in (False, True)
        for images in (N, 2 * N)
    }
    experiment, _ = step(False, N)
    gradients = 4 * experiment.network.parameters * 2 * (N - 1) / N
    assert sent[False, N]['all-reduce'] == pytest.approx(gradients, rel=0.01)
    assert sent[False, 2 * N] == sent[False, N]
    assert sent[True, N]['all-reduce'] < gradients / 50
    assert sent[True, 2 * N]['all-to-all'] == 2 * sent[True, N]['all-to-all']


@pytest.mark.slow
def test_a_device_keeps_its_part_of_parameters_gradients_and_moments():
    """Eight devices for 64 positions."""
    memory = {}
    for divides in (False, True):
        experiment, memory[divides] = step(divides, N)
        axes = {local.shard_axis for local in by_path(experiment.network.grids_on_devices).values()}
        assert axes == {parallel.AXIS if divides else None}
    local = local_arrays(experiment.shapes.params, experiment.network.grids)
    kernels = sum(kernel.size for kernel in jax.tree.leaves(local))
    whole, part = memory[False], memory[True]
    assert whole.state > 3 * 4 * kernels
    assert part.state / whole.state < 1.15 / 8
    of_all = [found.state + found.temporary for found in (part, whole)]
    assert of_all[0] / of_all[1] < 1.15 / 8
