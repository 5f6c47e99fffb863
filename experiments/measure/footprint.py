"""What a training step takes on each device, according to the compiled program."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.measure import collectives
from lcn_jax.training import parallel, sharding, wake
from lcn_jax.training.experiment import Experiment


class Footprint(NamedTuple):
    """Bytes on a device. state: parameters and moments. temporary: all else that XLA allocates, as
    gradients and activations. sent: to other devices in a step, by operation.
    """

    state: int
    temporary: int
    sent: dict[str, float]


def of_step(experiment: Experiment) -> Footprint:
    """Compiles a training step with backprop for all devices, without running it.

    Raises:
      UsageError: the devices cannot divide the batch.
    """
    devices, batch_size = jax.device_count(), experiment.config.batch_size
    parallel.check_batch_size(batch_size)
    update = partial(wake.update, learner=experiment.learner(total_steps=1))
    examples = batch_size // devices
    images, labels = parallel.replicated_shapes(
        (
            jax.ShapeDtypeStruct((examples, *experiment.network.image_shape), jnp.float32),
            jax.ShapeDtypeStruct((examples,), jnp.int32),
        )
    )
    arguments: Any = sharding.shapes(experiment.shapes, experiment.owners), images, labels
    program = parallel.per_device(update, (0, 0, 0), donate=[0])
    compiled: Any = program.lower(*arguments).compile()
    memory = compiled.memory_analysis()
    of_batch = sum(array.size * array.dtype.itemsize for array in (images, labels)) // devices
    return Footprint(
        memory.argument_size_in_bytes - of_batch,
        memory.temp_size_in_bytes + of_batch,
        collectives.sent(compiled.as_text(), devices),
    )
