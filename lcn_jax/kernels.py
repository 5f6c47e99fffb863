"""What is local among a model's parameters, found by the grids of the model.

These are the kernels of locally connected layers, and parameters with one value per neuron, here
just "values": biases at every position, and scales and biases of norms (`Grid.for_values`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax

from lcn_jax import divided
from lcn_jax.errors import UsageError
from lcn_jax.grid import Grid

Path = tuple[Any, ...]


def by_path(grids: Mapping) -> list[tuple[Path, Grid]]:
    """The (path in the params, grid) pairs of a tree of grids, in a fixed order."""
    return sorted(flax.traverse_util.flatten_dict(grids).items())


def of_kernels(grids: Mapping) -> dict[str, Any]:
    """The grids of kernels, without those of values."""
    flat = {path: grid for path, grid in by_path(grids) if grid.values_of is None}
    return flax.traverse_util.unflatten_dict(flat)


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
    return kernels_and_values(params, of_kernels(grids), shard_axis)


def kernels_and_values(
    params: Any, grids: Mapping, shard_axis: str | None = None
) -> list[tuple[Path, jax.Array, Grid]]:
    """As `kernels`, and of values (..., *output, O) those of one tap, (..., *output, 1, ..., O)."""
    flat = flax.traverse_util.flatten_dict(params)
    return [(path, _kernel(flat, path, grid, shard_axis), grid) for path, grid in by_path(grids)]


def local_parameters(params: Any, grids: Mapping) -> dict[str, Any]:
    """The kernels and values alone, in a tree like `params`."""
    flat = flax.traverse_util.flatten_dict(params)
    return flax.traverse_util.unflatten_dict({path: flat[path] for path, _ in by_path(grids)})


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
    """`params` with other kernels and values at these paths; shapes and boxes stay."""
    flat: dict[Path, Any] = flax.traverse_util.flatten_dict(params)
    for path, kernel in changed.items():
        flat[path] = jax.tree.map(lambda old, new=kernel: new.reshape(old.shape), flat[path])
    return flax.traverse_util.unflatten_dict(flat)


def _kernel(flat: Mapping, path: Path, grid: Grid, shard_axis: str | None) -> jax.Array:
    if path not in flat:
        raise UsageError(
            f'the parameters have no {name_of(path)}, which the grids name: make the grids with '
            'this model.'
        )
    (kernel,) = jax.tree.leaves(flat[path])
    if grid.values_of is not None:
        kernel = kernel.reshape(*kernel.shape[:-1], *grid.kernel_size, 1, kernel.shape[-1])
    positions = (*divided.positions_of_part(grid, shard_axis), *grid.kernel_size)
    if kernel.shape[:-2][-len(positions) :] != positions:
        raise UsageError(
            f'{name_of(path)} has shape {kernel.shape}, but its grid is of kernels {positions} + '
            '(C // groups, O): make the grids with this model and its image size.'
        )
    return kernel
