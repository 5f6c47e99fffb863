"""The training state: everything that a step changes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from lcn_jax.layer import local_parameters
from lcn_jax.layer.local_parameters import SHARED, local_arrays


@flax.struct.dataclass
class TrainState:
    """step: int32 (); the rest are trees of arrays, under the modules' names; params are float32.

    batch_stats: {} for a model without BatchNorm. last_sleep: the local parameters at the end of
    the last sleep, at first the initial ones, if sleeps take full steps (`sleep_step.py`); else {}.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    last_sleep: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that `model.apply` takes."""
        return {'params': self.params, 'batch_stats': self.batch_stats}


class _AfterSleep(NamedTuple):
    after_sleep: Any


@flax.struct.dataclass
class State01:
    """The state in checkpoints of version 0.1: `last_sleep` was in `opt_state`."""

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any

    @classmethod
    def like(cls, state: TrainState) -> 'State01':
        kept = state.last_sleep
        opt_state = (state.opt_state, _AfterSleep(kept)) if kept else state.opt_state
        return cls(state.step, state.params, state.batch_stats, opt_state)

    def converted(self, like: TrainState) -> TrainState:
        opt_state, kept = self.opt_state, {}
        if like.last_sleep:
            opt_state, (kept,) = self.opt_state
        return TrainState(self.step, self.params, self.batch_stats, opt_state, kept)


def of_variables(
    variables: Mapping[str, Any], optimizer: optax.GradientTransformation, kept: Mapping
) -> TrainState:
    """The state before the first step, of a model's initial variables.

    kept: the grids of the parameters in `last_sleep`.
    """
    params = variables['params']
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get('batch_stats', {}),
        opt_state=optimizer.init(params),
        last_sleep=local_arrays(params, kept),
    )


def owners(state: TrainState, grids: Mapping) -> TrainState:
    """For every array of a state, the local parameter that it belongs to, or SHARED.

    A parameter's moments belong to it, and its value after the last sleep.
    """
    of_state: dict[str, Any] = dict(
        step=SHARED,
        params=local_parameters.owners(state.params, state.params, grids),
        batch_stats=jax.tree.map(lambda _: SHARED, state.batch_stats),
        opt_state=local_parameters.owners(state.opt_state, state.params, grids),
        last_sleep=local_parameters.owners(state.last_sleep, state.params, grids),
    )
    return TrainState(**of_state)
