"""Metrics summed over examples, and the log of a run's records."""

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from etils import epath

from lcn_jax.errors import UsageError
from lcn_jax.files import append_text, from_json, reading, sync, to_json, write_text, writing

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


def with_confusion(
    logits: jax.Array, labels: jax.Array, exists: jax.Array
) -> tuple[Sums, jax.Array]:
    """`Sums.of`, and (classes, classes) int32: images of a class (rows) that were taken for one."""
    counts = jnp.zeros((logits.shape[1],) * 2, jnp.int32)
    # The labels of examples that do not exist are -1: they add 0 to the last row.
    counts = counts.at[labels, logits.argmax(1)].add(exists.astype(jnp.int32))
    return Sums.of(logits, labels, exists), counts


class Log:
    """The records of a run: a file with a line of JSON for each, and functions that get them too.

    A run that resumes after `step` keeps the records up to there, which the `sinks` get again, and
    drops the later ones, which will be made again: everybody sees each step once. Only the first
    process of a run writes and has sinks.

    path: of the file. last: the latest record, {} before the first one.
    """

    def __init__(self, path: str | os.PathLike, step: int, seconds: float, sinks: Sequence[Report]):
        """`seconds`: of training up to `step`."""
        self.path, self._sinks = path, sinks
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
            append_text(self.path, to_json(record))
            self._tell(record)

    def sync(self) -> None:
        """Makes the records last as long as a checkpoint that is written after them."""
        if self._active:
            with writing(self.path):
                sync(self.path)

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
    """The records of a log, [] if there is none.

    Lines that hold no record are left out, with a warning unless it is the last line, which any
    crash may cut off.
    """
    file = epath.Path(path)
    with reading(path):
        text = file.read_bytes().decode(errors='replace') if file.exists() else ''
    lines = {number: line for number, line in enumerate(text.split('\n'), 1) if line.strip()}
    records = {number: _record(line) for number, line in lines.items()}
    damaged = [number for number, record in records.items() if record is None]
    if damaged and damaged != [max(records)]:
        warnings.warn(
            f'{os.fspath(path)} is damaged in lines {damaged}: their records are left out, and all '
            'others are kept. To have all, train again in another workdir.',
            stacklevel=2,
        )
    return [record for record in records.values() if record is not None]


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = from_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get('step'), int) else None
