"""Bytes that devices send: of programs whose collectives are known."""

import jax
import jax.numpy as jnp
import pytest
import tiny_config
from jax import lax

from experiments.measure import collectives, footprint
from lcn_jax.training.experiment import Experiment

pytestmark = pytest.mark.optimised  # XLA plans what is sent

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


@pytest.mark.slow
def test_whole_kernels_send_gradients_and_divided_ones_activations():
    """An all-reduce of gradients has the size of the parameters, whatever the batch."""
    sent = {}
    for divides in (False, True):
        for images in (N, 2 * N):
            config = tiny_config.get_config('lc')
            config.model.stage_sizes, config.model.width = (1,), 16
            config.shard_kernels, config.batch_size = divides, images
            experiment = Experiment.create(config)
            sent[divides, images] = footprint.of_step(experiment).sent
    gradients = 4 * experiment.network.parameters * 2 * (N - 1) / N
    assert sent[False, N]['all-reduce'] == pytest.approx(gradients, rel=0.01)
    assert sent[False, 2 * N] == sent[False, N]
    assert sent[True, N]['all-reduce'] < gradients / 50
    assert sent[True, 2 * N]['all-to-all'] == 2 * sent[True, N]['all-to-all']
