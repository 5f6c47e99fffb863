"""The local parameters of a model: those of which every position of a layer has its own part.

They are kernels (*output, *kernel, C // groups, O), and parameters with one value per neuron,
(*output, O), such as local biases. A tree of `LocalParameter`s under the names of a model's
parameters (`grids.py`) says which they are, and everything that treats them layer by layer is
`each_local` or `map_local` with a function of one kernel.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from lcn_jax.layer.backends import divided
from lcn_jax.layer.grid import Grid

Path = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class LocalParameter:
    """Where the neurons of a layer are in one of its parameters, and which of them share.

    grid: the receptive fields of the layer.
    per_neuron: it is one value per neuron, (*output, O), and not a kernel. Functions of kernels get
      it as one of a single tap and channel, (*output, 1, ..., 1, O): a weight onto an input that is
      the same for all neurons.
    ensemble: the axes of the array over which `flax.linen.vmap` or `scan` stacks copies of it.
    joined: all positions of the layer are one pool; `sleep/pools.py` explains it.
    shard_axis: the axis of devices, in `jax.pmap` or `jax.shard_map`, that divide its positions
      among them (`backends/divided.py`); None if every device has the whole array.
    """

    grid: Grid
    per_neuron: bool = False
    ensemble: tuple[int, ...] = ()
    joined: bool = False
    shard_axis: str | None = None

    @property
    def dimensions(self) -> int:
        """The number of spatial dimensions."""
        return self.grid.dimensions

    @property
    def output_size(self) -> tuple[int, ...]:
        """The numbers of positions."""
        return self.grid.output_size

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """That of the kernels which functions of kernels get."""
        return (1,) * self.dimensions if self.per_neuron else self.grid.kernel_size

    @property
    def leading(self) -> tuple[int, ...]:
        """(*output, *kernel), or (m, *kernel) of a device's part."""
        positions = divided.positions_of_part(self.grid, self.shard_axis)
        return (*positions, *self.kernel_size)

    @property
    def rank(self) -> int:
        """The number of axes of one copy, as the model has it."""
        positions = self.dimensions if self.shard_axis is None else 1
        return positions + (1 if self.per_neuron else self.dimensions + 2)

    def own(self, kernel: Any) -> jax.Array:
        """This device's part of a whole kernel."""
        return divided.own(kernel, self.grid, self.shard_axis)

    def gathered(self, part: jax.Array, after: Any) -> jax.Array:
        """The whole kernel of a device's part, once the arrays in the tree `after` are there."""
        return divided.gathered(part, self.grid, self.shard_axis, after)

    def joined_pools(self) -> 'LocalParameter':
        """The same, but all positions of the layer are one pool."""
        return dataclasses.replace(self, joined=True)


def by_path(grids: Mapping) -> dict[Path, LocalParameter]:
    """The local parameters by their paths, in ascending order; a `Grid` stands for its kernel."""
    flat = sorted(flax.traverse_util.flatten_dict(grids).items())
    return {
        path: LocalParameter(local) if isinstance(local, Grid) else local for path, local in flat
    }


def kernels(grids: Mapping) -> dict[str, Any]:
    """The tree without the parameters that have one value per neuron."""
    flat = {path: local for path, local in by_path(grids).items() if not local.per_neuron}
    return flax.traverse_util.unflatten_dict(flat)


def joined(grids: Mapping) -> dict[str, Any]:
    """The tree with all positions of a layer in one pool."""
    return _changed(grids, lambda local: local.joined_pools())


def divided_over(axis_name: str | None, grids: Mapping) -> dict[str, Any]:
    """The tree with kernels whose positions the devices of an axis divide among them.

    Parameters with one value per neuron stay whole: they are small.
    """
    return _changed(
        grids,
        lambda local: (
            local if local.per_neuron else dataclasses.replace(local, shard_axis=axis_name)
        ),
    )


def _changed(grids, change):
    return flax.traverse_util.unflatten_dict(
        {path: change(local) for path, local in by_path(grids).items()}
    )


def name_of(path: Path) -> str:
    """The path with slashes."""
    return '/'.join(map(str, path))


# ---- Arrays in trees. ----------------------------------------------------------------------------


def names(path: tuple) -> Path:
    """The keys of dicts on a path of `jax.tree_util`; boxes and attributes have none."""
    return tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))


def local_arrays(tree: Any, grids: Mapping) -> dict[str, Any]:
    """The local parameters alone, in a tree of dicts, without the boxes of Flax around them."""
    arrays = arrays_by_path(tree)
    found = {path: _found(arrays, path) for path in by_path(grids)}
    return flax.traverse_util.unflatten_dict(found)


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
        path: _as_kernel(_found(arrays, path), local, path)
        for path, local in by_path(grids).items()
    }


def replaced(tree: Any, changed: Mapping[Path, jax.Array]) -> Any:
    """The tree with other arrays at these paths; containers and boxes stay."""

    def new(path, old):
        return changed.get(names(path), old)

    return jax.tree_util.tree_map_with_path(new, tree)


def arrays_by_path(tree: Any) -> dict[Path, jax.Array]:
    """The arrays of a tree by the keys of their paths, without boxes."""
    return {names(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _found(arrays: Mapping[Path, jax.Array], path: Path) -> jax.Array:
    if path not in arrays:
        raise ValueError(
            f'the parameters have no {name_of(path)}, which the grids name: make the grids with '
            'this model.'
        )
    return arrays[path]


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


# ---- The loop over what is local. ----------------------------------------------------------------


def each_local(
    function: Callable[..., Any],
    grids: Mapping,
    *trees: Any,
    after: Any = (),
    beside: str | None = None,
) -> dict[Path, Any]:
    """`function(number, local, *kernels)` of every local parameter, by its path.

    Each layer is whole: if devices divide it, they gather its parts, one layer after the other.
    Each copy of an ensemble, and each replica, is computed by itself: the results have their axes
    in front.

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
