"""Where training and evaluation get their images from: the devices, or a stream to them.

Both look the same from outside. Images go to the devices as uint8; `batches` makes batches of them
there.
"""

import itertools
from collections.abc import Iterator
from typing import Protocol

import jax
import ml_collections
import numpy as np

from lcn_jax.data import batches, sources, streaming
from lcn_jax.data.batches import Pixels
from lcn_jax.errors import UsageError
from lcn_jax.training import parallel


class Input(Protocol):
    """`examples` is the number of images to train on."""

    examples: int

    def train(self, first: int, last: int) -> Iterator[tuple[Pixels, jax.Array | None, int]]:
        """Pixels, order and number of steps, for the steps first, ..., last - 1 of one epoch.

        Pixels and order are what `batches.train_batch` takes, with a leading axis of devices.
        """

    def evaluate(self) -> Iterator[Pixels]:
        """Pixels with a leading axis of devices; in all of them every example is once."""


def make(config: ml_collections.ConfigDict, key: jax.Array) -> Input:
    """The images `config` asks for, in random order from `key`.

    If `config.validation` is not 0, so many training images are held out and evaluated on; if
    `config.train_images` is not 0, only so many of the rest are trained on.

    Raises:
      UsageError: the data is not there, or the config asks too much of it.
    """
    fits = sources.spec(config.dataset).fits
    return Resident(config, key) if fits else Streamed(config, key)


class Resident:
    """All images on the devices: training images on each, evaluated images shared out."""

    def __init__(self, config: ml_collections.ConfigDict, key: jax.Array):
        splits = sources.load(config.dataset, config.data_dir)
        train, evaluated = splits['train'], splits['test']
        mean, std = config.mean, config.std
        if not mean:
            mean, std = sources.pixel_statistics(config.dataset, config.data_dir, train)
        train, evaluated = _divide(config, train, evaluated)
        self.examples = len(train)
        self._key = key
        self._steps_per_epoch = _steps_per_epoch(config, self.examples)
        self._epoch, self._order = None, None
        statistics = np.array([mean, std], np.float32)
        self._train = parallel.replicate(Pixels(train.images, train.labels, *statistics))
        shared_out = share_out(
            evaluated, jax.process_index(), jax.process_count(), jax.device_count()
        )
        self._evaluated = Pixels(
            *parallel.spread(shared_out), *parallel.replicate(tuple(statistics))
        )

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

    def __init__(self, config: ml_collections.ConfigDict, key: jax.Array):
        dataset = sources.spec(config.dataset)
        if not config.mean:
            raise UsageError(
                f'set config.mean and config.std: those of {config.dataset} are not computed.'
            )
        train, evaluated = (
            streaming.Files.of(config.dataset, config.data_dir, split)
            for split in ('train', dataset.evaluation)
        )
        train, evaluated = _divide(config, train, evaluated)
        self.examples = len(train)
        self._workers = config.workers
        self._statistics = parallel.replicate(
            tuple(np.array([config.mean, config.std], np.float32))
        )
        shard = jax.process_index(), jax.process_count()
        self._train_batches = streaming.TrainBatches(
            files=train,
            seed=int(jax.random.bits(key)),
            steps=_steps_per_epoch(config, self.examples) * config.epochs,
            batch_size=config.batch_size,
            repetitions=config.translations.repetitions,
            size=config.image_size + 2 * config.translations.padding,
            shard=shard,
        )
        self._eval_batches = streaming.EvalBatches(
            files=evaluated, batch_size=config.batch_size, size=config.image_size, shard=shard
        )
        self._next, self._stream = None, None

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


def _divide(config: ml_collections.ConfigDict, train, evaluated):
    """The images to train on and to evaluate on, of a split or its files."""
    if not (config.validation or config.train_images):
        return train, evaluated
    kept, held_out = sources.divide(len(train), config.validation, config.train_images)
    return train.take(kept), train.take(held_out) if config.validation else evaluated


def _steps_per_epoch(config: ml_collections.ConfigDict, examples: int) -> int:
    repetitions = config.translations.repetitions
    return batches.steps_per_epoch(examples, config.batch_size, repetitions)


def share_out(
    split: sources.Split, process: int, processes: int, devices: int
) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of one of the processes, filled up so that all devices have as many.

    Each device gets the same ones whichever process it belongs to.
    """
    fill = -len(split) % devices
    images = np.pad(split.images, [(0, fill)] + [(0, 0)] * 3)
    labels = np.pad(split.labels, (0, fill), constant_values=sources.MISSING)
    share = len(labels) // processes
    own = slice(process * share, (process + 1) * share)
    return images[own], labels[own]
