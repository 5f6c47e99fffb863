"""Which examples a step takes, and which of them one shard: the part of a device or process.

Arithmetic on integers, for numpy and for JAX. `shard` is (index, count).
"""

from typing import Any

import numpy as np

Integer = Any  # an int, or a traced JAX array: the workers do not import JAX for its type

MISSING = -1  # the label of what only fills a batch


def positions(batch_size: int, shard: tuple[Integer, int]) -> np.ndarray:
    """(batch_size / count,): where in the batch the shard's examples are."""
    index, count = shard
    per_shard = batch_size // count
    return index * per_shard + np.arange(per_shard)


def steps_per_epoch(examples: int, batch_size: int, repetitions: int) -> int:
    """Steps in which every image appears once (`repetitions` copies of it in one batch).

    Images left over when the last batch is full are skipped in this epoch.
    """
    return examples // (batch_size // repetitions)


def places_in_epoch(
    step: Integer, examples: int, batch_size: int, repetitions: int, shard: tuple[Integer, int]
) -> np.ndarray:
    """(batch_size / count,): which of the epoch's `examples`, in its order, the shard trains on.

    The copies of an image lie batch_size / repetitions apart in the batch, so that every shard sees
    as many different images as possible.
    """
    images = batch_size // repetitions
    step_of_epoch = step % steps_per_epoch(examples, batch_size, repetitions)
    return step_of_epoch * images + positions(batch_size, shard) % images
