"""Sleeping: the step that applies a sharing rule of `lcn_jax/sleep` to the training state.

Written for one device, as the wake step is, and wrapped by `parallel.per_device`.
"""

from collections.abc import Mapping
from dataclasses import replace

import jax
from ml_collections import ConfigDict

from lcn_jax.layer.local_parameters import local_arrays
from lcn_jax.sleep import infrequent
from lcn_jax.sleep.sharing import Rule, resolve, share
from lcn_jax.training import config as configs
from lcn_jax.training import parallel
from lcn_jax.training.state import TrainState


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
    share_moments: bool = False,
    equalise_momentum: bool = False,
    full_step: bool = False,
) -> TrainState:
    """One sleep: local kernels, biases and scales change and everything else stays.

    `share_moments`, `equalise_momentum` and `full_step` do what `lcn_jax/sleep/infrequent.py` says.
    The random numbers depend on `key` and the step only, so that all devices sleep alike.
    """
    key = jax.random.fold_in(key, state.step)
    params, last_sleep = share(state.params, grids, rule, key), state.last_sleep
    if full_step:
        params = infrequent.full_step(params, state.params, last_sleep, grids, rule.border)
        last_sleep = local_arrays(params, grids)
    opt_state = state.opt_state
    if equalise_momentum:
        opt_state = infrequent.equalise_momentum(opt_state, grids, rule, key)
    if share_moments:
        opt_state = infrequent.share_moments(opt_state, params, grids, rule.border)
    return replace(state, params=params, last_sleep=last_sleep, opt_state=opt_state)
