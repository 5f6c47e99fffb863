"""One program on every device, and values on all of them; the only file that uses pmap.

Arrays on several devices have a leading axis, over those of the process. Those on a single device
have none, because XLA:CPU would copy donated ones that it can change in place without it.
"""

import collections
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lcn_jax.errors import UsageError

AXIS = 'batch'
LOST_SECONDS = 100


def join_processes(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Makes this process part of a run of several; call it before anything uses a device.

    Each of them runs the same program on devices of its own, and all see the same workdir.
    Arguments that are None come from the environment of a TPU pod or SLURM. A process that is lost,
    or silent for LOST_SECONDS, ends the others.

    Raises:
      UsageError: something is missing, or the processes did not find each other.
    """
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            initialization_timeout=LOST_SECONDS,
            heartbeat_timeout_seconds=LOST_SECONDS,
            shutdown_timeout_seconds=LOST_SECONDS,
        )
    except (ValueError, TypeError, RuntimeError) as e:
        reason = str(e).partition('\n')[0]
        raise UsageError(
            f'cannot join the processes of the run ({reason}): give --coordinator_address, '
            '--num_processes and --process_id, the first two the same to all processes.'
        ) from e


def per_device(
    program: Callable,
    in_axes: Sequence[int | None],
    donate: Sequence[int] = (),
    draws: bool = False,
) -> Any:
    """Compiles `program` to run on every device at once, with `AXIS` over the devices.

    Arguments with `in_axes` 0 are on the devices (`replicate`), those with None go to every device
    whole. The buffers of the arguments numbered in `donate` are reused. Results are on the devices
    (`first`). If it `draws` many random arrays, XLA:CPU would take most of the time to compile for
    unrolling their loops, and the program is no faster for it: here it does not.
    """
    if not leading_axes():
        whole = PartitionSpec()
        mesh = _over_devices().mesh
        one = jax.shard_map(program, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False)
        on_cpu = jax.default_backend() == 'cpu'
        options = {'xla_backend_optimization_level': 1} if draws and on_cpu else None
        return jax.jit(one, donate_argnums=tuple(donate), compiler_options=options)
    return jax.pmap(program, axis_name=AXIS, in_axes=tuple(in_axes), donate_argnums=tuple(donate))


def leading_axes() -> tuple[int, ...]:
    """Of arrays on the devices: (local devices,), or () on a single device."""
    return () if jax.device_count() == 1 else (jax.local_device_count(),)


def as_on_devices(program: Callable) -> Callable:
    """`program`, to trace outside of `per_device`: with an `AXIS` of as many devices as there are.

    Its arguments are those of one device.
    """
    devices = jax.device_count()
    return jax.vmap(program, in_axes=None, axis_name=AXIS, axis_size=devices)


def shard() -> tuple[jax.Array, int]:
    """Inside a per-device program: (number of this device, number of devices)."""
    return lax.axis_index(AXIS), lax.axis_size(AXIS)


def mean(tree: Any) -> Any:
    """Inside a per-device program: the mean over devices, or `tree` itself on a single device."""
    return lax.pmean(tree, AXIS) if lax.axis_size(AXIS) > 1 else tree


def replicate(tree: Any) -> Any:
    """Puts a copy of each array on every local device.

    No device ever holds more than one copy. Leaves are numpy or JAX arrays; on CPU, devices may
    share the memory of a numpy array, so do not change it afterwards. The copies lie as per-device
    programs return them: JAX would compile a program once more for arguments that lie otherwise.
    """
    return jax.tree.map(_copies, tree)


def _copies(leaf):
    one = leaf[None]
    return place(lambda number: one)


def place(part: Callable[[int], Any]) -> jax.Array:
    """Puts the array `part(number)`, (1, ...), on the device of that number, for all local ones."""
    devices = jax.local_devices()
    first_number = jax.process_index() * len(devices)
    parts = [
        jax.device_put(part(number) if leading_axes() else part(number).squeeze(0), device)
        for number, device in enumerate(devices, first_number)
    ]
    shape = (*leading_axes(), *parts[0].shape[len(leading_axes()) :])
    return jax.make_array_from_single_device_arrays(shape, _over_devices(), parts)


def spread(tree: Any) -> Any:
    """Cuts the leading axis of numpy arrays into equal parts, one for each local device."""

    def cut(array):
        parts = array.reshape(*leading_axes(), -1, *array.shape[1:])
        return jax.device_put(parts, _over_devices())

    return jax.tree.map(cut, tree)


def prefetch(trees: Iterator[Any]) -> Iterator[Any]:
    """`spread` of each of the trees, one ahead, so that transfers overlap with computation."""
    ready = collections.deque()
    for tree in trees:
        ready.append(spread(tree))
        if len(ready) > 1:
            yield ready.popleft()
    yield from ready


def first(tree: Any) -> Any:
    """The first device's copy of replicated values, as numpy arrays."""
    shards = jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, tree)
    axes = tuple(range(len(leading_axes())))
    return jax.tree.map(lambda leaf: leaf.squeeze(axes), jax.device_get(shards))


def over_all(array: jax.Array) -> jax.Array:
    """An array on the devices as one with a leading axis over the devices of all processes."""
    if not leading_axes():
        return array[None]
    devices = [d for process in range(jax.process_count()) for d in jax.local_devices(process)]
    shape = (len(devices), *array.shape[1:])
    parts = [shard.data for shard in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(shape, _over_devices(devices), parts)


def _over_devices(devices: Sequence | None = None) -> NamedSharding:
    """The leading axis, if there is one, over the devices.

    Over the local ones, if none are given: where `pmap` expects arrays and leaves them.
    """
    devices = devices or jax.local_devices()
    return NamedSharding(
        Mesh(np.array(devices), (AXIS,)), PartitionSpec(*(AXIS for _ in leading_axes()))
    )


def check_same_values(values: Mapping[str, Any], of: str) -> None:
    """UsageError if the values, of the same names in all processes, are not the same in all."""
    if jax.process_count() == 1:
        return
    codes = np.array([zlib.crc32(repr(value).encode()) for value in values.values()], np.uint32)
    of_processes = multihost_utils.process_allgather(codes)
    differing = [name for name, same in zip(values, (of_processes == codes).all(0)) if not same]
    if differing:
        raise UsageError(
            f'the processes of the run have different values of {of}.{", ".join(differing)}: start '
            'all of them with the same command.'
        )


def all_true(value: bool) -> bool:
    """Whether the value is true in all processes, each of which must call this."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.array(value)).all())


def check_batch_size(batch_size: int) -> None:
    """UsageError unless the devices can divide a batch equally."""
    count = jax.device_count()
    if batch_size % count:
        below = batch_size // count * count
        raise UsageError(
            f'batch_size {batch_size} cannot be split over {count} devices: use a multiple of '
            f'{count}, {below or count} or {below + count} for example.'
        )


def replicated_shapes(tree: Any) -> Any:
    """The shapes that `replicate` gives to arrays, or to `jax.ShapeDtypeStruct`s."""

    def of_leaf(leaf):
        return jax.ShapeDtypeStruct((*leading_axes(), *leaf.shape), leaf.dtype)

    return jax.tree.map(of_leaf, tree)
