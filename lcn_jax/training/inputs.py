"""The images of training and evaluation, which stay on the devices or are streamed to them.

Both kinds of input have the same methods. Images go to the devices as uint8, where `batches` makes
batches of them.
"""

import itertools
from collections.abc import Iterator
from typing import Any, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

from lcn_jax.data import batches, shards, sources, streaming
from lcn_jax.data.batches import Pixels
from lcn_jax.data.sources import Source
from lcn_jax.data.splits import Images, Split
from lcn_jax.errors import UsageError
from lcn_jax.training import parallel

MeanStd = tuple[np.ndarray, np.ndarray]  # (C,) float32 each, of the training pixels in [0, 1]


class Input(Protocol):
    """`examples` is the number of images to train on."""

    examples: int

    def train(self, first: int, last: int) -> Iterator[tuple[Pixels, jax.Array | None, int]]:
        """Pixels, order and number of steps, for the steps first, ..., last - 1 of one epoch.

        Pixels and order are what `batches.train_batch` takes, on the devices.
        """
        ...

    def evaluate(self) -> Iterator[Pixels]:
        """Pixels on the devices, which together have every example once."""
        ...


def make(config: ConfigDict, key: jax.Array) -> Input:
    """The images of `config`'s dataset, in random order from `key`.

    Raises:
      UsageError: the data is not there, or has fewer images than the config takes from it.
    """
    source = Source(config.dataset, config.data_dir)
    train, evaluated = source.train_and_evaluated(config.validation, config.train_images)
    statistics = sources.normalisation(config, source)
    kind = Resident if source.spec.fits else Streamed
    return kind(config, key, train, evaluated, statistics)


def steps_per_epoch(config: ConfigDict) -> int:
    """Steps in which every training image of `config` appears once.

    Raises:
      UsageError: the data is not there or has fewer images than the config takes from it, the
        devices cannot divide a batch, or a batch has more images than there are.
    """
    parallel.check_batch_size(config.batch_size)
    source = Source(config.dataset, config.data_dir)
    train, _ = source.train_and_evaluated(config.validation, config.train_images)
    steps = _steps(config, train)
    if steps == 0:
        raise UsageError(
            f'config.batch_size {config.batch_size} is larger than the {len(train)} training '
            'images.'
        )
    return steps


def _steps(config: ConfigDict, train: Split) -> int:
    return shards.steps_per_epoch(len(train), config.batch_size, config.translations.repetitions)


class Resident:
    """All images on the devices: every training image on each, each evaluation image on one."""

    def __init__(
        self, config: ConfigDict, key: jax.Array, train: Split, evaluated: Split, mean_std: MeanStd
    ):
        self.examples = len(train)
        self._key = key
        self._steps_per_epoch = _steps(config, train)
        self._epoch, self._order = None, None
        images = train.read()
        self._train = parallel.replicate(Pixels(images.images, images.labels, *mean_std))
        shared_out = share_out(
            evaluated.read(), jax.process_index(), jax.process_count(), jax.device_count()
        )
        self._evaluated = Pixels(*parallel.spread(shared_out), *parallel.replicate(mean_std))

    def train(self, first, last):
        epoch = first // self._steps_per_epoch
        if epoch != self._epoch:
            order = batches.epoch_order(self._key, epoch, self.examples)
            self._epoch, self._order = epoch, parallel.replicate(order)
        yield self._train, self._order, last - first

    def evaluate(self):
        yield self._evaluated


class Streamed:
    """Images decoded on the host while the devices compute."""

    def __init__(
        self, config: ConfigDict, key: jax.Array, train: Split, evaluated: Split, mean_std: MeanStd
    ):
        self.examples = len(train)
        self._workers = config.workers
        self._statistics = parallel.replicate(mean_std)
        in_common: dict[str, Any] = dict(
            channels=train.spec.image_shape[2],
            shard=(jax.process_index(), jax.process_count()),
        )
        self._train_batches = streaming.TrainBatches(
            split=train,
            seed=int(jax.random.bits(key)),
            steps=_steps(config, train) * config.epochs,
            batch_size=config.batch_size,
            repetitions=config.translations.repetitions,
            size=config.image_size + 2 * config.translations.padding,
            **in_common,
        )
        self._eval_batches = streaming.EvalBatches(
            split=evaluated,
            # Other devices than those of the training may not be able to divide its batches.
            batch_size=config.batch_size + -config.batch_size % jax.device_count(),
            size=config.image_size,
            **in_common,
        )
        self._next = -1  # the step of the next batch of the stream; -1 before there is a stream
        self._stream: Iterator[Pixels] = iter(())

    def train(self, first, last):
        if first != self._next:
            self._next, self._stream = first, self._on_devices(self._train_batches, first)
        for pixels in itertools.islice(self._stream, last - first):
            self._next += 1
            yield pixels, None, 1

    def evaluate(self):
        yield from self._on_devices(self._eval_batches, 0)

    def _on_devices(self, made, first) -> Iterator[Pixels]:
        for images, labels in parallel.prefetch(streaming.stream(made, first, self._workers)):
            yield Pixels(images, labels, *self._statistics)


def share_out(
    images: Images, process: int, processes: int, devices: int
) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of one process, padded so that all devices get equally many.

    Which images a device gets does not depend on the number of processes.
    """
    fill = -len(images) % devices
    own = shards.positions(len(images) + fill, (process, processes))
    filled = np.pad(images.images, [(0, fill)] + [(0, 0)] * 3)
    labels = np.pad(images.labels, (0, fill), constant_values=shards.MISSING)
    return filled[own], labels[own]
