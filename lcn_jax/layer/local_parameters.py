"""The local parameters of a model: those that hold separate values for every position.

They are kernels (*output, *kernel, C // groups, O), and parameters with one value per neuron,
(*output, O), such as local biases. A tree of `LocalParameter`s under the names of a model's
parameters (`grids.py`) says which they are; `each_local.py` goes through them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax

from lcn_jax.layer.arguments import check_choice
from lcn_jax.layer.backends import divided
from lcn_jax.layer.grid import Grid

Path = tuple[Any, ...]

SHARED = 'shared'
POOLS = ('tiled', 'joined')  # the paper's, or all positions of a layer in one


@dataclasses.dataclass(frozen=True)
class LocalParameter:
    """How a parameter is laid out over the neurons of its layer, and which of them share.

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
        """The kernel size that functions of kernels see."""
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


def in_pools(grids: Mapping, pools: str) -> dict[str, Any]:
    """The tree with pools of a kind; ValueError if it is not one of POOLS."""
    check_choice(pools, POOLS, 'pools')
    return _changed(grids, lambda local: local.joined_pools()) if pools == 'joined' else dict(grids)


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
    found = {path: array_at(arrays, path) for path in by_path(grids)}
    return flax.traverse_util.unflatten_dict(found)


def owners(tree: Any, params: Any, grids: Mapping) -> Any:
    """For every array of a tree, the `LocalParameter` that it belongs to, or SHARED.

    An array belongs to the parameter whose path its own path ends with, if it has its shape: the
    parameters themselves do, gradients, and the moments of any optimizer of optax.
    """
    shapes = {path: array.shape for path, array in arrays_by_path(params).items()}
    local = by_path(grids)

    def owner(path, array):
        keys = names(path)
        ends = (keys[start:] for start in range(len(keys)))
        parameter = next((end for end in ends if end in shapes), ())
        is_like = getattr(array, 'shape', None) == shapes.get(parameter)
        return local.get(parameter, SHARED) if is_like else SHARED

    return jax.tree_util.tree_map_with_path(owner, tree)


def replaced(tree: Any, changed: Mapping[Path, jax.Array]) -> Any:
    """The tree with other arrays at these paths; containers and boxes stay."""

    def new(path, old):
        return changed.get(names(path), old)

    return jax.tree_util.tree_map_with_path(new, tree)


def arrays_by_path(tree: Any) -> dict[Path, jax.Array]:
    """The arrays of a tree by the keys of their paths, without boxes."""
    return {names(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def array_at(arrays: Mapping[Path, jax.Array], path: Path) -> jax.Array:
    """The array of a local parameter; ValueError if there is none."""
    if path not in arrays:
        raise ValueError(
            f'the parameters have no {name_of(path)}, which the grids name: make the grids with '
            'this model.'
        )
    return arrays[path]
