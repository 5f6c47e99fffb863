"""Sleeping: the step that applies a sharing rule of `lcn_jax/sleep.py` to the training state.

Written for one device, as the wake step is, and wrapped by `parallel.per_device`.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from lcn_jax import divided, sleep
from lcn_jax.grid import Pools
from lcn_jax.kernels import (
    for_each_member,
    kernels_and_values,
    local_parameters,
    with_kernels,
)  # fmt: skip
from lcn_jax.sleep import Rule, share
from lcn_jax.training import config as configs
from lcn_jax.training import parallel
from lcn_jax.training.state import TrainState

TINY = 1e-30  # nothing has moved


def rule(config: ConfigDict) -> Rule:
    """The sharing rule of `config.sleep` with its options, which are under the rule's own name.

    Raises:
      UsageError: there is no such rule, or it does not take these options.
    """
    options = configs.options(config.sleep, config.sleep.rule)
    if options.pop('split_patterns', False):
        options['axis_name'] = parallel.AXIS
    return sleep.resolve(config.sleep.rule, {'border': config.sleep.border, **options})


def step(
    state: TrainState,
    key: jax.Array,
    *,
    grids: Mapping,
    rule: Rule,
    share_moments: bool,
    full_step: bool = False,
    shard_axis: str | None = None,
) -> TrainState:
    """One sleep: local kernels, biases and scales change and everything else stays.

    With `share_moments` each of the optimizer's moments of these kernels becomes the mean of its
    pool, as the moments of a convolution would be. `full_step` is explained at `lengthen`. The
    random numbers depend on `key` and the step only, so that all devices sleep alike. If those of
    `shard_axis` divide the kernels, each gathers one layer at a time.
    """
    key = jax.random.fold_in(key, state.step)
    params, opt_state = share(state.params, grids, rule, key, shard_axis), state.opt_state
    if full_step:
        last = optax.tree_utils.tree_get(opt_state, 'after_sleep')
        border = rule.keywords['border']
        params = lengthen(params, state.params, last, grids, border, shard_axis)
        kept = local_parameters(params, grids)
        opt_state = optax.tree_utils.tree_set(opt_state, after_sleep=kept)
    state = replace(state, params=params, opt_state=opt_state)
    if not share_moments:
        return state
    share_mean = partial(sleep.mean, border=rule.keywords['border'])
    like_params = jax.tree.structure(state.params).__eq__
    moments, structure = jax.tree.flatten(
        state.opt_state, is_leaf=lambda tree: like_params(jax.tree.structure(tree))
    )
    before = state.params
    for i, tree in enumerate(moments):
        if like_params(jax.tree.structure(tree)):
            moments[i] = before = share(tree, grids, share_mean, key, shard_axis, before)
    return replace(state, opt_state=jax.tree.unflatten(structure, moments))


def lengthen(
    shared: Any,
    own: Any,
    last: Any,
    grids: Mapping,
    border: str,
    shard_axis: str | None = None,
) -> dict[str, Any]:
    """Rescales a pool's common change since the last sleep to the size of its members' changes.

    Between two sleeps a neuron moves mostly on the noise of its own gradients. The average takes
    the noise away, and with it most of the step that the optimizer meant to take. With m(w), the
    means of pools,

        w = w_shared + (rms(w_own - w_last) / rms(c) - 1) c,     c = m(w_own) - m(w_last).

    Root mean squares are over the neurons of a layer that are in pools; the others keep what the
    rule gives them.

    Args:
      shared, own: parameters after and before the sleep.
      last: local parameters at the end of the sleep before, as `local_parameters` has them.
      shard_axis: as in `sleep.share`.
    """
    changed, after = {}, local_parameters(shared, grids)
    layers = zip(*(kernels_and_values(tree, grids, shard_axis) for tree in (shared, own, last)))
    for (path, shared_part, grid), (_, own_part, _), (_, last_part, _) in layers:
        of_layer = [
            divided.gathered(part, grid, shard_axis, after)
            for part in (shared_part, own_part, last_part)
        ]

        def of_member(shared, own, last, grid=grid):
            moved = jnp.where(grid.in_pool(border), own - last, 0)
            common = jnp.where(grid.in_pool(border), Pools.of(grid, border).averaged(moved), 0)
            ratio = jnp.linalg.norm(moved) / jnp.maximum(jnp.linalg.norm(common), TINY)
            return shared + (ratio - 1) * common

        longer = for_each_member(of_member, grid, *of_layer)
        changed[path] = after = divided.own(longer, grid, shard_axis)
    return with_kernels(shared, changed)
