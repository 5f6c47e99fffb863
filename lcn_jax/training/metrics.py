"""Metrics summed over examples, and the log of a run's records."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from etils import epath

from lcn_jax.errors import UsageError
from lcn_jax.files import append_text, from_json, to_json, write_text, writing

Record = Mapping[str, Any]
Report = Callable[[Record], None]


@flax.struct.dataclass
class Sums:
    """Loss and hits summed over examples: sums, unlike means, add up over steps and devices.

    Float32 scalars.
    """

    loss: jax.Array
    top1: jax.Array
    top5: jax.Array
    count: jax.Array

    @classmethod
    def zero(cls) -> 'Sums':
        """The sums over no examples."""
        return cls(*(jnp.zeros(()) for _ in range(4)))

    @classmethod
    def of(cls, logits: jax.Array, labels: jax.Array, exists: jax.Array) -> 'Sums':
        """Sums over the examples that exist.

        logits: (N, classes) float32; labels: (N,) int; exists: (N,) bool.
        """
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        own = jnp.take_along_axis(logits, labels[:, None], 1)
        # Ties and NaN count as misses, so that dead or diverged networks do not look perfect.
        rank = (~(logits < own)).sum(1) - 1
        terms = losses, rank < 1, rank < 5, 1.0
        return cls(*(jnp.where(exists, term, 0.0).sum() for term in terms))

    def __add__(self, other: 'Sums') -> 'Sums':
        return jax.tree.map(jnp.add, self, other)

    def means(self) -> dict[str, float]:
        """Mean loss (nats), top-1 and top-5 accuracy (fractions)."""
        count = float(self.count)
        return {name: float(getattr(self, name)) / count for name in ('loss', 'top1', 'top5')}


class Log:
    """The records of a run: a file with a line of JSON for each, and functions that get them too.

    A run that resumes after `step` keeps the records up to there, which the `sinks` get again, and
    drops the later ones, which will be made again: everybody sees each step once. Only the first
    process of a run writes and has sinks.

    last: the latest record, {} before the first one.
    """

    def __init__(self, path: str | os.PathLike, step: int, seconds: float, sinks: Sequence[Report]):
        """`seconds`: of training up to `step`."""
        self._path, self._sinks = path, sinks
        self._started = time.perf_counter() - seconds
        self._active = jax.process_index() == 0
        kept = [record for record in read(path) if record['step'] <= step]
        self.last: Record = kept[-1] if kept else {}
        if self._active:
            write_text(path, ''.join(map(to_json, kept)))
            for record in kept:
                self._tell(record)

    def add(self, record: Record) -> None:
        """Writes a record and gives it to the sinks; UsageError if it cannot be written."""
        self.last = record
        if self._active:
            append_text(self._path, to_json(record))
            self._tell(record)

    def seconds(self) -> float:
        """Seconds of training, in all."""
        return time.perf_counter() - self._started

    def _tell(self, record: Record) -> None:
        for sink in self._sinks:
            sink(record)


def awake(record: Record, name: str) -> Any:
    """'weight_snr' or 'weight_deviation' before the sleep, if the record's step ended in one.

    None where it has no meaning, and in runs from before it was measured.
    """
    return record.get(f'{name}_before_sleep', record.get(name))


def ignore(record: Record) -> None:
    """A sink that does nothing."""


def tensorboard(folder: epath.Path) -> Report:
    """A sink that writes scalars for TensorBoard, and first removes those already in `folder`.

    Raises:
      UsageError: tensorboardX is not installed.
    """
    try:
        import tensorboardX
    except ImportError:
        raise UsageError(
            "config.tensorboard needs tensorboardX: pip install 'lcn_jax[tensorboard]'."
        ) from None
    with writing(folder):
        if folder.exists():
            folder.rmtree()
    writer = tensorboardX.SummaryWriter(os.fspath(folder))

    def write(record: Record) -> None:
        for name, value in record.items():
            if name != 'step' and isinstance(value, float):
                writer.add_scalar(name, value, record['step'])
        writer.flush()

    return write


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a log, [] if there is none; it stops at a line that a crash has cut off."""
    file = epath.Path(path)
    records = []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            records.append(from_json(line))
        except json.JSONDecodeError:
            break
    return records
