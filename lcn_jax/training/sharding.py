"""A training state whose locally connected kernels are divided among the devices.

`grids` are those of the divided kernels, {} if there are none. The optimizer keeps trees like the
parameters, so a leaf of the state belongs to a kernel if its path ends with that of the kernel.
The other leaves are the same on all devices.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from lcn_jax import divided, local
from lcn_jax.errors import UsageError
from lcn_jax.grid import Grid
from lcn_jax.kernels import by_path
from lcn_jax.training import parallel


def own(tree: Any, grids: Mapping) -> Any:
    """Inside a per-device program: of whole kernels, this device's parts."""
    return _map(lambda kernel, grid: divided.own(kernel, grid, parallel.AXIS), tree, grids)


def mean(grads: Any, grids: Mapping) -> Any:
    """Inside a per-device program: gradients of the mean loss, from those of each device's loss.

    A part gets gradients from the examples of all devices, a shared parameter from its device's.
    """
    devices = parallel.shard()[1]
    grids_of = _grid_of(grids)
    flat, structure = jax.tree_util.tree_flatten_with_path(grads)
    shared = iter(parallel.mean([leaf for path, leaf in flat if grids_of(path) is None]))
    means = [next(shared) if grids_of(path) is None else leaf / devices for path, leaf in flat]
    return jax.tree.unflatten(structure, means)


def place(state: Any, grids: Mapping) -> Any:
    """Puts on every device its parts of whole kernels, and a copy of all else."""

    def parts(kernel, grid):
        of_devices = divided.parts(kernel, grid, jax.device_count())
        return parallel.place(lambda number: of_devices[number : number + 1])

    return _map(parts, state, grids, parallel.replicate)


def shapes(state: Any, grids: Mapping) -> Any:
    """The shapes that `place` gives to arrays, or to `jax.ShapeDtypeStruct`s."""

    def of_part(kernel, grid):
        parts = functools.partial(divided.parts, grid=grid, devices=jax.device_count())
        part = jax.eval_shape(parts, kernel)
        return parallel.replicated_shapes(jax.ShapeDtypeStruct(part.shape[1:], part.dtype))

    return _map(of_part, state, grids, parallel.replicated_shapes)


def snapshot(state: Any, grids: Mapping) -> Any:
    """What a checkpoint keeps: numpy arrays, and of divided kernels arrays over all devices.

    Of these every process writes its own part; `divided.joined` makes them whole again.
    """
    return _map(lambda kernel, _: parallel.over_all(kernel), state, grids, parallel.first)


def check_model(model: nn.Module, image_shape: tuple[int, int, int], name: str) -> None:
    """UsageError if a local layer of the model does not divide its neurons."""

    def note(call, args, kwargs, context):
        module = context.module
        is_local = callable(getattr(module, 'grid', None))
        if is_local and getattr(module, 'shard_axis', None) != parallel.AXIS:
            raise UsageError(
                f'config.shard_kernels needs local layers with shard_axis={parallel.AXIS!r}, which '
                f'{"/".join(module.path)} of {name} does not have: see docs/models.md, or set '
                'config.shard_kernels=False.'
            )
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        local.grids(model, image_shape)


def _map(
    function: Callable[[Any, Grid], Any],
    tree: Any,
    grids: Mapping,
    otherwise: Callable[[Any], Any] = lambda leaf: leaf,
) -> Any:
    """`function(leaf, grid)` of leaves that belong to a kernel, `otherwise(leaf)` of the others."""
    grid_of = _grid_of(grids)

    def of_leaf(path, leaf):
        grid = grid_of(path)
        return otherwise(leaf) if grid is None else function(leaf, grid)

    return jax.tree_util.tree_map_with_path(of_leaf, tree)


def _grid_of(grids: Mapping) -> Callable[[Any], Grid | None]:
    """The grid of the leaf at a path of `jax.tree_util`, None if it belongs to no kernel."""
    flat = dict(by_path(grids))

    def grid_of(path):
        names = tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
        return next((grid for end, grid in flat.items() if names[-len(end) :] == end), None)

    return grid_of
