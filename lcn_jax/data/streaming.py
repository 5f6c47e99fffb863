"""Images that differ in size, read while training: workers make whole batches of them.

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

from lcn_jax.data.photographs import centre_box, crop, random_box
from lcn_jax.data.shards import MISSING, places_in_epoch, positions, steps_per_epoch
from lcn_jax.data.splits import Split
from lcn_jax.errors import UsageError

Batch = tuple[np.ndarray, np.ndarray]  # images (N, size, size, C) uint8 and labels (N,) int32


@dataclasses.dataclass(frozen=True)
class _Batches:
    """The part of process `shard` = (index, count) in batches of `size`×`size` images."""

    split: Split
    batch_size: int  # over all processes
    size: int
    channels: int
    shard: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class TrainBatches(_Batches):
    """Training batches by step, each with `repetitions` copies of every image in it.

    Images are decoded and cropped once, so their copies are the same here; in the whole batch they
    lie batch_size / repetitions apart.
    """

    seed: int
    steps: int
    repetitions: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        examples, images_per_batch = len(self.split), self.batch_size // self.repetitions
        places = places_in_epoch(step, examples, self.batch_size, self.repetitions, self.shard)
        epoch = step // steps_per_epoch(examples, self.batch_size, self.repetitions)
        order = _order(self.seed, epoch, examples)
        distinct, copies = np.unique(places, return_inverse=True)
        images = np.empty((len(distinct), self.size, self.size, self.channels), np.uint8)
        labels = np.empty(len(distinct), np.int32)
        for i, place in enumerate(distinct):
            rng = np.random.default_rng((self.seed, step, place % images_per_batch))
            file, labels[i], name = self.split[int(order[place])]
            choose_box = functools.partial(random_box, rng=rng)
            images[i] = crop(file, name, self.size, self.channels, choose_box)
        return images[copies], labels[copies]


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, examples: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(examples)


@dataclasses.dataclass(frozen=True)
class EvalBatches(_Batches):
    """The same number of batches in every process; labels are MISSING beyond the last image."""

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __getitem__(self, step: int) -> Batch:
        examples = step * self.batch_size + positions(self.batch_size, self.shard)
        images = np.zeros((len(examples), self.size, self.size, self.channels), np.uint8)
        labels = np.full(len(examples), MISSING, np.int32)
        for i, example in enumerate(examples[examples < len(self.split)]):
            file, labels[i], name = self.split[example]
            images[i] = crop(file, name, self.size, self.channels, centre_box)
        return images, labels


def stream(batches: TrainBatches | EvalBatches, first: int, workers: int) -> Iterator[Batch]:
    """batches[first], batches[first + 1], ... made by `workers` processes (0: by this one).

    Close the generator to end the processes.

    Raises:
      UsageError: there is too little shared memory for the batches of the workers.
    """
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # grain's workers want its flags, also in notebooks and tests
        flags.FLAGS.mark_as_parsed()
    dataset = grain.MapDataset.source(_Endless(batches))[first:].to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    )
    options = grain.multiprocessing.MultiprocessingOptions(num_workers=workers)
    iterator = iter(dataset.mp_prefetch(options, worker_init_fn=_end_with_parent))
    try:
        yield from itertools.islice(iterator, max(len(batches) - first, 0))
    except RuntimeError as error:
        if f'exit code {-signal.SIGBUS}.' not in str(error):
            raise
        raise UsageError(
            'shared memory (/dev/shm) is too small for the batches of the workers: enlarge it, as '
            'with docker run --shm-size=8g, lower config.workers, or set config.workers=0.'
        ) from error
    finally:
        iterator.close()


@dataclasses.dataclass(frozen=True)
class _Endless:
    """`batches`, then empty ones: grain keeps a thread and a batch of a source that has ended."""

    batches: TrainBatches | EvalBatches

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Any:
        return self.batches[index] if index < len(self.batches) else ()


def _end_with_parent(worker: int, workers: int) -> None:
    """Makes a worker leave Ctrl-C to its parent, and end if the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait():
        parent = multiprocessing.parent_process()
        assert parent is not None  # this runs in a worker
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
