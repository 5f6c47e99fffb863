"""The locally connected kernels among a model's parameters, found by the grids of the model."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax

from lcn_jax import divided
from lcn_jax.errors import UsageError
from lcn_jax.grid import Grid

Path = tuple[Any, ...]


def by_path(grids: Mapping) -> list[tuple[Path, Grid]]:
    """The (path of a kernel in the params, grid) pairs of a tree of grids, in a fixed order."""
    return sorted(flax.traverse_util.flatten_dict(grids).items())


def name_of(path: Path) -> str:
    return '/'.join(map(str, path))


def kernels(
    params: Any, grids: Mapping, shard_axis: str | None = None
) -> list[tuple[Path, jax.Array, Grid]]:
    """The (path, kernel, grid) of every locally connected layer, in the order of `by_path`.

    Kernels are (..., *output, *kernel, C // groups, O): the axes in front are those of an ensemble
    or of replicas. A kernel in a box of Flax (`nn.with_partitioning`) is taken out of it. If the
    devices of `shard_axis` divide the kernels, they are parts (`divided.py`).

    Raises:
      UsageError: params and grids do not fit together.
    """
    flat = flax.traverse_util.flatten_dict(params)
    return [(path, _kernel(flat, path, grid, shard_axis), grid) for path, grid in by_path(grids)]


def local_kernels(params: Any, grids: Mapping, shard_axis: str | None = None) -> dict[str, Any]:
    """The locally connected kernels alone, in a tree like `params`."""
    flat = {path: kernel for path, kernel, _ in kernels(params, grids, shard_axis)}
    return flax.traverse_util.unflatten_dict(flat)


def joined(grids: Mapping) -> dict[str, Any]:
    """The grids with all positions of a layer in one pool."""
    flat = {path: grid.joined_pools() for path, grid in by_path(grids)}
    return flax.traverse_util.unflatten_dict(flat)


def for_each_member(function: Callable, grid: Grid, *arrays: jax.Array) -> Any:
    """`function(*arrays)` of every member of an ensemble: kernels whose first axes are its own."""
    for _ in range(arrays[0].ndim - 2 * grid.dimensions - 2):
        function = jax.vmap(function)
    return function(*arrays)


def with_kernels(params: Any, changed: Mapping[Path, jax.Array]) -> dict[str, Any]:
    """`params` with other arrays at these paths; boxes stay."""
    flat: dict[Path, Any] = flax.traverse_util.flatten_dict(params)
    for path, kernel in changed.items():
        flat[path] = jax.tree.map(lambda _, kernel=kernel: kernel, flat[path])
    return flax.traverse_util.unflatten_dict(flat)


def _kernel(flat: Mapping, path: Path, grid: Grid, shard_axis: str | None) -> jax.Array:
    if path not in flat:
        raise UsageError(
            f'the parameters have no {name_of(path)}, which the grids name: make the grids with '
            'this model.'
        )
    (kernel,) = jax.tree.leaves(flat[path])
    positions = (*divided.positions_of_part(grid, shard_axis), *grid.kernel_size)
    if kernel.shape[:-2][-len(positions) :] != positions:
        raise UsageError(
            f'{name_of(path)} has shape {kernel.shape}, but its grid is of kernels {positions} + '
            '(C // groups, O): make the grids with this model and its image size.'
        )
    return kernel
