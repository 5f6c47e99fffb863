"""Sleeping: the step that applies a sharing rule of `lcn_jax/sleep` to the training state.

Written for one device, as the wake step is, and wrapped by `parallel.per_device`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from lcn_jax.layer.each_local import map_local
from lcn_jax.layer.local_parameters import local_arrays
from lcn_jax.sleep.pools import Pools, in_pool
from lcn_jax.sleep.sharing import Rule, resolve, share
from lcn_jax.training import config as configs
from lcn_jax.training import parallel
from lcn_jax.training.state import SHARED, TrainState, owners

TINY = 1e-30  # avoids 0 / 0 if nothing has moved


def rule(config: ConfigDict) -> Rule:
    """The sharing rule of `config.sleep` with its options, which are under the rule's own name.

    Raises:
      UsageError: there is no such rule, or it does not take these options.
    """
    options = configs.options(config.sleep, config.sleep.rule)
    if options.pop('split_patterns', False):
        options['axis_name'] = parallel.AXIS
    return resolve(config.sleep.rule, {'border': config.pools.border, **options})


def step(
    state: TrainState,
    key: jax.Array,
    *,
    grids: Mapping,
    rule: Rule,
    optimizer: optax.GradientTransformation,
    share_moments: bool = False,
    full_step: bool = False,
) -> TrainState:
    """One sleep: local kernels, biases and scales change and everything else stays.

    With `share_moments` each of the optimizer's moments of these parameters is averaged within the
    pool, so that its members take the same step. `full_step` is explained at
    `rescale_common_step`. The random numbers depend on `key` and the step only, so that all devices
    sleep alike.
    """
    key = jax.random.fold_in(key, state.step)
    params, last_sleep = share(state.params, grids, rule, key), state.last_sleep
    if full_step:
        params = rescale_common_step(params, state.params, last_sleep, grids, rule.border)
        last_sleep = local_arrays(params, grids)
    state = replace(state, params=params, last_sleep=last_sleep)
    if not share_moments:
        return state
    return replace(state, opt_state=_with_shared_moments(state, optimizer, grids, rule.border))


def _with_shared_moments(state, optimizer, grids, border) -> optax.OptState:
    """One moment of a layer after the other, so that devices gather one at a time."""

    def average(_, local, moment):
        return Pools.of(local, border).averaged(moment)

    moments, structure = jax.tree.flatten(state.opt_state)
    of_moments = structure.flatten_up_to(owners(state, optimizer, grids).opt_state)
    before = state.params
    for i, (moment, local) in enumerate(zip(moments, of_moments)):
        if local is not SHARED:
            moments[i] = before = map_local(average, {'': local}, {'': moment}, after=before)['']
    return jax.tree.unflatten(structure, moments)


def rescale_common_step(shared: Any, own: Any, last: Any, grids: Mapping, border: str) -> Any:
    """Rescales a pool's common change since the last sleep to the size of its members' changes.

    Between two sleeps a neuron moves mostly on the noise of its own gradients. The average takes
    the noise away, and with it most of the step that the optimizer meant to take. With m(w), the
    means of pools,

        w = w_shared + (rms(w_own - w_last) / rms(c) - 1) c,     c = m(w_own) - m(w_last).

    Root mean squares are over the neurons of a layer that are in pools; the others keep what the
    rule gives them.

    Args:
      shared, own: parameters after and before the sleep.
      last: local parameters at the end of the sleep before, as `local_arrays` has them.
    """

    def rescaled(_, local, shared, own, last):
        pooled = in_pool(local, border)
        moved = jnp.where(pooled, own - last, 0)
        common = jnp.where(pooled, Pools.of(local, border).averaged(moved), 0)
        ratio = jnp.linalg.norm(moved) / jnp.maximum(jnp.linalg.norm(common), TINY)
        return shared + (ratio - 1) * common

    return map_local(rescaled, grids, shared, own, last, after=local_arrays(shared, grids))
