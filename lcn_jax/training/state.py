"""What training changes, and how it starts."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """step: int32; the rest are trees of float32 arrays under the modules' names."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState


def create(
    key: jax.Array,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
) -> TrainState:
    """A fresh state for images of shape (H, W, C), of a model with BatchNorm; jit it."""
    variables = model.init(key, jnp.zeros((1, *image_shape)), train=False)
    params = variables['params']
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables['batch_stats'],
        opt_state=optimizer.init(params),
    )


def grids(model: nn.Module, image_shape: tuple[int, int, int]) -> dict:
    """The `Grid` of every locally connected kernel, at the kernel's path in the params.

    Nothing is computed; {} if no layer is locally connected.
    """
    variables = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, *image_shape)), train=False), jax.random.key(0)
    )
    return variables.get('grids', {})
