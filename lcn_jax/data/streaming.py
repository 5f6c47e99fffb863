"""ImageNet read while training: worker processes decode, crop and make whole batches.

A batch follows from the seed and its step alone, so there is no state to store. Nothing here
touches a device: the workers import it.
"""

import dataclasses
import functools
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from lcn_jax.data.photographs import centre_crop, random_resized_crop
from lcn_jax.data.sources import MISSING, builder, examples_in

Batch = tuple[np.ndarray, np.ndarray]  # images (N, size, size, 3) uint8 and labels (N,) int32


@dataclasses.dataclass(frozen=True)
class Files:
    """Encoded images of a prepared dataset: those of `split` numbered in `examples`."""

    name: str
    data_dir: str
    split: str
    examples: np.ndarray

    @classmethod
    def of(cls, name: str, data_dir: str, split: str) -> 'Files':
        """The whole split; UsageError if it is not there, or empty."""
        examples = examples_in(builder(name, data_dir), split)
        return cls(name, data_dir, split, np.arange(examples))

    def take(self, chosen: np.ndarray) -> 'Files':
        return dataclasses.replace(self, examples=self.examples[chosen])

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[bytes, int, str]:
        """(encoded image, label, file name)."""
        example = self._source[int(self.examples[index])]
        return example['image'], example['label'], example['file_name'].decode()

    @functools.cached_property
    def _source(self) -> Any:
        import tensorflow_datasets as tfds

        skip = {'image': tfds.decode.SkipDecoding()}
        return builder(self.name, self.data_dir).as_data_source(self.split, decoders=skip)

    def __getstate__(self):
        # Open files do not go to the workers.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True)
class TrainBatches:
    """Process `shard` = (index, count)'s part of every training batch, by step.

    As `batches.train_batch` chooses images: batch_size / repetitions a step, each decoded once and
    cropped to size×size; its copies are the same here and lie batch_size / repetitions apart in
    the whole batch.
    """

    files: Files
    seed: int
    steps: int
    batch_size: int
    repetitions: int
    size: int
    shard: tuple[int, int]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        index, count = self.shard
        unique = self.batch_size // self.repetitions
        epoch, position = divmod(step, len(self.files) // unique)
        order = epoch_order(self.seed, epoch, len(self.files))
        per_shard = self.batch_size // count
        members = (index * per_shard + np.arange(per_shard)) % unique
        distinct, copies = np.unique(members, return_inverse=True)
        images = np.empty((len(distinct), self.size, self.size, 3), np.uint8)
        labels = np.empty(len(distinct), np.int32)
        for i, member in enumerate(distinct):
            rng = np.random.default_rng((self.seed, step, member))
            file, labels[i], name = self.files[order[position * unique + member]]
            images[i] = random_resized_crop(file, self.size, rng, name)
        return images[copies], labels[copies]


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """Process `shard`'s part of every evaluation batch, in the order of the files.

    Every process has as many batches; labels are MISSING beyond the end.
    """

    files: Files
    batch_size: int
    size: int
    shard: tuple[int, int]

    def __len__(self) -> int:
        return -(-len(self.files) // self.batch_size)

    def __getitem__(self, step: int) -> Batch:
        index, count = self.shard
        per_shard = self.batch_size // count
        start = step * self.batch_size + index * per_shard
        images = np.zeros((per_shard, self.size, self.size, 3), np.uint8)
        labels = np.full(per_shard, MISSING, np.int32)
        for i, example in enumerate(range(start, min(start + per_shard, len(self.files)))):
            file, labels[i], name = self.files[example]
            images[i] = centre_crop(file, self.size, name)
        return images, labels


def stream(batches: TrainBatches | EvalBatches, first: int, workers: int) -> Iterator[Batch]:
    """batches[first], batches[first + 1], ... made by `workers` processes (0: by this one).

    Close the generator to end the processes.
    """
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # grain's workers want its flags, also in notebooks and tests
        flags.FLAGS.mark_as_parsed()
    dataset = grain.MapDataset.source(_Endless(batches))[first:].to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    )
    options = grain.multiprocessing.MultiprocessingOptions(num_workers=workers)
    iterator = iter(dataset.mp_prefetch(options, worker_init_fn=_live_with_parent))
    try:
        yield from itertools.islice(iterator, max(len(batches) - first, 0))
    finally:
        iterator.close()


@dataclasses.dataclass(frozen=True)
class _Endless:
    """`batches` and then nothing, for ever: grain keeps a thread and a batch of what has ended."""

    batches: TrainBatches | EvalBatches

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> Batch | tuple[()]:
        return self.batches[step] if step < len(self.batches) else ()


def _live_with_parent(worker: int, workers: int) -> None:
    """Makes a worker leave Ctrl-C to its parent, and end if that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """(examples,) the order of the images in an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(examples)
