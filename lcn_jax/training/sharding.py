"""A training state whose locally connected kernels are divided among the devices.

`owners` (`state.py`) says which parameter each array belongs to. What belongs to a divided kernel
is divided with it; everything else is the same on all devices.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax.core import FrozenDict

from lcn_jax.layer.backends import divided
from lcn_jax.layer.local_parameters import SHARED, LocalParameter, owners
from lcn_jax.training import parallel
from lcn_jax.training.state import TrainState

NOTHING = FrozenDict({})


def own(state: TrainState, owners: TrainState) -> TrainState:
    """Inside a per-device program: of whole kernels, this device's parts."""
    return _map(lambda kernel, local: local.own(kernel), state, owners)


def mean(grads: Any, batch_stats: Any, *, grids: Mapping = NOTHING) -> tuple[Any, Any]:
    """Inside a per-device program: gradients of the mean loss, and mean statistics.

    A part gets gradients from the examples of all devices; those of a shared parameter come from
    the examples of one.
    `grids` says what is divided.
    """
    devices = parallel.shard()[1]
    flat, structure = jax.tree.flatten(grads)
    divides = [_is_divided(owner) for owner in jax.tree.leaves(owners(grads, grads, grids))]
    means, batch_stats = parallel.mean(
        ([leaf for leaf, is_part in zip(flat, divides) if not is_part], batch_stats)
    )
    means = iter(means)
    flat = [leaf / devices if is_part else next(means) for leaf, is_part in zip(flat, divides)]
    return jax.tree.unflatten(structure, flat), batch_stats


def place(state: Any, owners: Any) -> Any:
    """Puts on every device its parts of whole kernels, and a copy of all else."""

    def parts(kernel, local):
        of_devices = divided.parts(kernel, local.grid, jax.device_count())
        return parallel.place(lambda number: of_devices[number : number + 1])

    return _map(parts, state, owners, parallel.replicate)


def shapes(state: TrainState, owners: TrainState) -> TrainState:
    """The shapes that `place` gives to arrays, or to `jax.ShapeDtypeStruct`s."""

    def of_part(kernel, local):
        parts = functools.partial(divided.parts, grid=local.grid, devices=jax.device_count())
        part = jax.eval_shape(parts, kernel)
        return parallel.replicated_shapes(jax.ShapeDtypeStruct(part.shape[1:], part.dtype))

    return _map(of_part, state, owners, parallel.replicated_shapes)


def snapshot(state: TrainState, owners: TrainState) -> TrainState:
    """What a checkpoint keeps: numpy arrays, and of divided kernels arrays over all devices.

    Of these every process writes its own part; `divided.whole` makes them whole again.
    """
    return _map(lambda kernel, _: parallel.over_all(kernel), state, owners, parallel.first)


def _map(
    function: Callable[[Any, LocalParameter], Any],
    state: TrainState,
    owners: TrainState,
    otherwise: Callable[[Any], Any] = lambda leaf: leaf,
) -> TrainState:
    """`function(leaf, local)` of what is divided, `otherwise(leaf)` of all else."""

    def of_leaf(leaf, owner):
        return function(leaf, owner) if _is_divided(owner) else otherwise(leaf)

    return jax.tree.map(of_leaf, state, owners)


def _is_divided(owner: Any) -> bool:
    return owner is not SHARED and owner.shard_axis is not None
