"""Sleeping: the step that applies a sharing rule of `lcn_jax/sleep.py` to the training state.

Written for one device, as the wake step is, and wrapped by `parallel.per_device`.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
from ml_collections import ConfigDict, FrozenConfigDict

from lcn_jax import sleep
from lcn_jax.sleep import Rule, share
from lcn_jax.training import parallel
from lcn_jax.training.state import TrainState


def rule(config: ConfigDict) -> Rule:
    """The sharing rule of `config.sleep` with its options, which are under the rule's own name.

    Raises:
      UsageError: there is no such rule, or it does not take these options.
    """
    own = config.sleep.get(config.sleep.rule.rpartition(':')[2])
    options: dict[str, Any] = (
        dict(own.items()) if isinstance(own, ConfigDict | FrozenConfigDict) else {}
    )
    if options.pop('split_patterns', False):
        options['axis_name'] = parallel.AXIS
    return sleep.resolve(config.sleep.rule, {'border': config.sleep.border, **options})


def step(
    state: TrainState, key: jax.Array, *, grids: Mapping, rule: Rule, share_moments: bool
) -> TrainState:
    """One sleep: the locally connected kernels change and everything else stays.

    With `share_moments` each of the optimizer's moments of these kernels becomes the mean of its
    pool, as the moments of a convolution would be. The random numbers depend on `key` and the step
    only, so that all devices sleep alike.
    """
    key = jax.random.fold_in(key, state.step)
    state = replace(state, params=share(state.params, grids, rule, key))
    if not share_moments:
        return state
    like_params = jax.tree.structure(state.params).__eq__
    share_mean = partial(sleep.mean, border=rule.keywords['border'])
    return replace(
        state,
        opt_state=jax.tree.map(
            lambda tree: (
                share(tree, grids, share_mean, key)
                if like_params(jax.tree.structure(tree))
                else tree
            ),
            state.opt_state,
            is_leaf=lambda tree: like_params(jax.tree.structure(tree)),
        ),
    )
