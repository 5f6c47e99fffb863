"""Applying a function to each local parameter of a model.

`each_local` returns the results, `map_local` puts them into the tree, and `map_parts` is for
functions that need no more of a kernel than the part that a device has.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lcn_jax.layer.local_parameters import (
    LocalParameter,
    Path,
    array_at,
    arrays_by_path,
    by_path,
    name_of,
    replaced,
)  # fmt: skip


def each_local(
    function: Callable[..., Any],
    grids: Mapping,
    *trees: Any,
    after: Any = (),
    beside: str | None = None,
) -> dict[Path, Any]:
    """`function(number, local, *kernels)` of every local parameter, by its path.

    Each layer is whole: if devices divide it, they gather its parts, one layer after the other.
    The function is applied to each copy of an ensemble, and to each replica, separately; the
    results have their axes in front.

    Args:
      function: of the number of the layer in the order of paths, its `LocalParameter`, and a kernel
        (*output, *kernel, C // groups, O) of each tree.
      trees: of parameters, or other trees of arrays like them.
      after: arrays that must be there before the first layer is gathered.
      beside: the name of another parameter of the layer, such as 'bias', which the function gets
        after the kernels, as the first tree has it; None for a layer without it.

    Raises:
      ValueError: a tree and the grids do not fit together.
    """
    parts_of = [parts(tree, grids) for tree in trees]
    arrays = arrays_by_path(trees[0])
    results: dict[Path, Any] = {}
    for number, (path, local) in enumerate(by_path(grids).items()):
        of_layer = partial(_of_whole_layer, partial(function, number, local), local)
        if local.shard_axis is not None:  # or the gradient would keep the whole kernels
            of_layer = jax.checkpoint(of_layer)
        others = []
        if beside:
            other = arrays.get((*path[:-1], beside))
            others = [None if other is None else _copies_in_front(other, arrays[path], local)]
        results[path] = after = of_layer([of_tree[path] for of_tree in parts_of], others, after)
    return results


def _of_whole_layer(function, local, parts, others, after):
    kernels = [local.gathered(part, after) for part in parts]
    for _ in range(kernels[0].ndim - 2 * local.dimensions - 2):
        function = jax.vmap(function)
    return function(*kernels, *others)


def map_local(
    function: Callable[..., jax.Array], grids: Mapping, *trees: Any, after: Any = ()
) -> Any:
    """The first of the trees, with `function(number, local, *kernels)` for every local parameter.

    The function returns a kernel of the shape that it gets; the rest is as in `each_local`. Other
    leaves are returned as they are.
    """

    def own(number, local, *kernels):
        return local.own(function(number, local, *kernels))

    return _replaced(trees[0], each_local(own, grids, *trees, after=after), grids)


def map_parts(
    function: Callable[[LocalParameter, jax.Array], jax.Array], grids: Mapping, tree: Any
) -> Any:
    """The tree, with `function(local, kernel)` for every local parameter.

    The function gets all copies of an ensemble at once, and a device's part of what is divided.
    """
    of_path = by_path(grids)
    changed = {path: function(of_path[path], part) for path, part in parts(tree, grids).items()}
    return _replaced(tree, changed, grids)


def _replaced(tree: Any, kernels: Mapping[Path, jax.Array], grids: Mapping) -> Any:
    of_path = by_path(grids)
    stored = {path: _as_stored(kernel, of_path[path]) for path, kernel in kernels.items()}
    return replaced(tree, stored)


# ---- Kernels as functions get them. --------------------------------------------------------------


def parts(tree: Any, grids: Mapping) -> dict[Path, jax.Array]:
    """The local parameters of a tree, by path, as kernels (..., *positions, *kernel, C, O).

    The axes in front are those of ensembles, and of replicas that the tree stacks. Of a parameter
    that devices divide it is a part, whose positions are in a row. Arrays are taken out of the
    boxes of Flax (`nn.with_partitioning`).

    Raises:
      ValueError: the tree and the grids do not fit together.
    """
    arrays = arrays_by_path(tree)
    return {
        path: _as_kernel(array_at(arrays, path), local, path)
        for path, local in by_path(grids).items()
    }


def _as_kernel(array: jax.Array, local: LocalParameter, path: Path) -> jax.Array:
    kernel, leading = array, local.leading
    if array.ndim - local.rank >= len(local.ensemble):
        kernel = jnp.moveaxis(array, *_ensemble_axes(array, local))
        if local.per_neuron:
            taps_and_channel = (1,) * (local.dimensions + 1)
            kernel = kernel.reshape(*kernel.shape[:-1], *taps_and_channel, kernel.shape[-1])
    if kernel.shape[:-2][-len(leading) :] != leading:
        raise ValueError(
            f'{name_of(path)} has shape {array.shape}, but its grid is of kernels {leading} + '
            '(C // groups, O): make the grids with this model and its image size.'
        )
    return kernel


def _as_stored(kernel: jax.Array, local: LocalParameter) -> jax.Array:
    """The inverse of `_as_kernel`."""
    if local.per_neuron:
        kernel = kernel.reshape(*kernel.shape[: -local.dimensions - 2], kernel.shape[-1])
    stored, in_front = _ensemble_axes(kernel, local)
    return jnp.moveaxis(kernel, in_front, stored)


def _ensemble_axes(array: jax.Array, local: LocalParameter) -> tuple[list[int], list[int]]:
    """The ensemble's axes where the model has them, and in front of the axes of one copy.

    Axes that the model does not have, such as those of stacked replicas, are before all others.
    """
    members = len(local.ensemble)
    stacked = array.ndim - local.rank - members
    return [stacked + axis for axis in local.ensemble], list(range(stacked, stacked + members))


def _copies_in_front(other: jax.Array, array: jax.Array, local: LocalParameter) -> jax.Array:
    """Another parameter of the layer, with the axes of the ensemble of `array` in front."""
    stored, in_front = _ensemble_axes(array, local)
    # An axis that the other parameter does not have was counted from the end.
    stored = [axis if axis < other.ndim else axis - array.ndim for axis in stored]
    return jnp.moveaxis(other, stored, in_front)
