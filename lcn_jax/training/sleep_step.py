"""Sleeping: the step that applies a sharing rule of `lcn_jax/sleep` to the training state.

Written for one device, as the wake step is, and wrapped by `parallel.per_device`.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax
from ml_collections import ConfigDict

from lcn_jax.layer.local_parameters import LocalParameter, Path, by_path, local_arrays
from lcn_jax.sleep import infrequent
from lcn_jax.sleep.sharing import Rule, resolve, share
from lcn_jax.training import config as configs
from lcn_jax.training import parallel
from lcn_jax.training.schedule import turns
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
    """One sleep of the layers in `grids`: their kernels, biases and scales change, all else stays.

    `share_moments`, `equalise_momentum` and `full_step` do what `lcn_jax/sleep/infrequent.py` says.
    The random numbers depend on `key` and the step only, so that all devices sleep alike.
    """
    key = jax.random.fold_in(key, state.step)
    params, last_sleep = share(state.params, grids, rule, key), state.last_sleep
    if full_step:
        params = infrequent.full_step(params, state.params, last_sleep, grids, rule.border)
        slept = flatten_dict(local_arrays(params, grids))
        last_sleep = unflatten_dict(flatten_dict(last_sleep) | slept)
    opt_state = state.opt_state
    if equalise_momentum:
        opt_state = infrequent.equalise_momentum(opt_state, grids, rule, key)
    if share_moments:
        opt_state = infrequent.share_moments(opt_state, params, grids, rule.border)
    return replace(state, params=params, last_sleep=last_sleep, opt_state=opt_state)


def by_layer(grids: Mapping) -> list[dict[Path, LocalParameter]]:
    """The local parameters of each layer by their paths, in the order of the layers' names."""
    layers = defaultdict(dict)
    for path, local in by_path(grids).items():
        layers[path[:-1]][path] = local
    return list(layers.values())


def by_turns(
    state: TrainState, key: jax.Array, *, every: int, grids: Mapping, sleep: Callable
) -> TrainState:
    """`sleep(state, key, grids=...)` of the layers whose turn it is after the state's last step.

    Every layer sleeps after `every` steps, at a step of its own (`schedule.turns`).
    """
    layers = by_layer(grids)
    of_turns = defaultdict(dict)
    for turn, layer in zip(turns(every, len(layers)), layers):
        of_turns[turn] |= layer
    branches = [partial(sleep, grids=unflatten_dict(paths)) for paths in of_turns.values()]
    turn = (state.step - 1) % every + 1
    return lax.switch(jnp.searchsorted(jnp.array([*of_turns]), turn), branches, state, key)
