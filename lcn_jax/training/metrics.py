"""What is measured: sums over examples, the SNR of the weights, and where the numbers go."""

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import optax

from lcn_jax.errors import UsageError, writing
from lcn_jax.grid import Pools
from lcn_jax.snr import weight_snr

Report = Callable[[Mapping[str, Any]], None]


@flax.struct.dataclass
class Sums:
    """Loss and hits summed over examples; sums add up over steps and devices, means do not."""

    loss: jax.Array
    top1: jax.Array
    top5: jax.Array
    count: jax.Array

    @classmethod
    def zero(cls) -> 'Sums':
        """Of no examples: float32 scalars."""
        return cls(*(jnp.zeros(()) for _ in range(4)))

    @classmethod
    def of(cls, logits: jax.Array, labels: jax.Array, exists: jax.Array) -> 'Sums':
        """logits (N, classes) float32, labels (N,) int, exists (N,) bool: False is not counted."""
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        own = jnp.take_along_axis(logits, labels[:, None], 1)
        # Ties and NaN count as lost, so that dead or exploded networks do not look perfect.
        rank = (~(logits < own)).sum(1) - 1
        terms = losses, rank < 1, rank < 5, 1.0
        return cls(*(jnp.where(exists, term, 0.0).sum() for term in terms))

    def __add__(self, other: 'Sums') -> 'Sums':
        return jax.tree.map(jnp.add, self, other)

    def means(self) -> dict[str, float]:
        """Mean loss (nats), top-1 and top-5 accuracy (fractions)."""
        count = float(self.count)
        return {name: float(getattr(self, name)) / count for name in ('loss', 'top1', 'top5')}


def layer_snrs(params: Any, grids: Mapping, border: str) -> dict[str, jax.Array]:
    """The paper's weight SNR of every locally connected kernel, by module path.

    Each is the median over the pools of at least two neurons and over output features: a few
    weights that happen to be equal to rounding would dominate a mean.
    """
    flat = flax.traverse_util.flatten_dict(params)
    snrs = {}
    for path, grid in sorted(flax.traverse_util.flatten_dict(grids).items()):
        pools = Pools.of(grid, border)
        comparable = pools.members.sum(1) > 1
        if not comparable.any():
            continue
        kernel = flat[path]
        weights = pools.split(kernel)[comparable]
        weights = weights.reshape(*weights.shape[:2], -1, weights.shape[-1])
        per_feature = jax.vmap(weight_snr, in_axes=(-1, None))
        snrs['/'.join(path[:-1])] = jnp.median(per_feature(weights, pools.members[comparable]))
    return snrs


class Log:
    """Where the records of a run go: a file of JSON lines, and the functions `sinks`.

    A run that resumes after `step` keeps the earlier records, which the sinks get again, and drops
    the others, which will be made again: everybody sees each step once. Only the first process of a
    run writes and has sinks. last: the latest record, {} before there is one.
    """

    def __init__(self, path: str, step: int, sinks: Sequence[Report]):
        self._path, self._sinks = path, sinks
        self._active = jax.process_index() == 0
        kept = _read(path, step)
        self.last = kept[-1] if kept else {}
        if self._active:
            with writing(path):
                with open(path + '.part', 'w') as file:
                    file.writelines(map(_line, kept))
                os.replace(path + '.part', path)
            for record in kept:
                self._tell(record)

    def add(self, record: Mapping[str, Any]) -> None:
        """Writes a record and gives it to the sinks; UsageError if it cannot be written."""
        self.last = record
        if self._active:
            with writing(self._path), open(self._path, 'a') as file:
                file.write(_line(record))
            self._tell(record)

    def _tell(self, record):
        for sink in self._sinks:
            sink(record)


def tensorboard(folder: str) -> Report:
    """A sink that writes scalars for TensorBoard, instead of those already in `folder`.

    Raises:
      UsageError: tensorboardX is not installed.
    """
    try:
        import tensorboardX
    except ImportError:
        raise UsageError(
            "config.tensorboard needs tensorboardX: pip install 'lcn_jax[tensorboard]'."
        ) from None
    shutil.rmtree(folder, ignore_errors=True)
    writer = tensorboardX.SummaryWriter(folder)

    def write(record):
        for name, value in record.items():
            if name != 'step' and isinstance(value, float):
                writer.add_scalar(name, value, record['step'])
        writer.flush()

    return write


def _read(path: str, last_step: int) -> list[dict[str, Any]]:
    """The records up to a step; what follows a line that a crash cut off is not there either."""
    records = []
    if os.path.exists(path):
        with open(path) as file:
            for line in file:
                try:
                    record = json.loads(line)
                except ValueError:
                    break
                if record['step'] > last_step:
                    break
                records.append(numbers(record))
    return records


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(plain(record)) + '\n'


def plain(value: Any) -> Any:
    """For JSON, which has no infinity or NaN: these as strings, in dicts and lists as well."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `plain` for a record."""
    strings = ('inf', '-inf', 'nan')
    return {key: float(value) if value in strings else value for key, value in record.items()}
