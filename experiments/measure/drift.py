"""The common part of what the neurons of a pool learn while awake.

It is rms(m(d)) / rms(d) over a layer, where d is the change of a neuron's weights and m(d) the mean
change of its pool.
"""

import jax
import jax.numpy as jnp

from lcn_jax.sleep import similarity
from lcn_jax.sleep.pools import Neurons, pool_numbers
from lcn_jax.training import inputs, parallel, train
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.metrics import Sums


def common_parts(experiment: Experiment, state, seed: int, counts: list[int]) -> list[dict]:
    """The common part of each layer, by its name, after each of `counts` steps from `state`."""
    config, data_key = experiment.config, train.keys(seed)[1]
    images = inputs.make(config, data_key)
    schedule, wake = experiment.schedule, experiment.wake

    @jax.jit
    def common_part(before, after):
        changes = jax.tree.map(jnp.subtract, after, before)
        own = similarity.layer_deviations(changes, experiment.network.grids, config.pools.border)
        return {name: jnp.sqrt(1 - deviation**2) for name, deviation in own.items()}

    step = int(state.step)
    ends = [step + count for count in counts]
    now, sums, parts = *parallel.replicate((state, Sums.zero())), []
    while step < ends[-1]:
        first = step
        step = min(schedule.next_stop(step), *(end for end in ends if end > step))
        for pixels, order, steps in images.train(first, step):
            now, sums = wake(now, sums, pixels, order, data_key, steps)
        if step in ends:
            parts.append(common_part(state.params, parallel.first(now).params))
    return parts


def independent(neurons: Neurons, border: str) -> float:
    """The common part of independent changes: with N neurons in P pools it is sqrt(P / N)."""
    pool = pool_numbers(neurons, border)
    return (len(set(pool[pool >= 0])) / (pool >= 0).sum()) ** 0.5
