"""The training state: everything that a step changes."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """step: int32 (); the rest are trees of float32 arrays under the modules' names.

    batch_stats: {} for a model without BatchNorm.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that `model.apply` takes."""
        return {'params': self.params, 'batch_stats': self.batch_stats}


def create(
    key: jax.Array,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
) -> TrainState:
    """The initial state of a model of images (H, W, C); compile it with `jax.jit`."""
    variables = model.init(key, jnp.zeros((1, *image_shape)), train=False)
    return of_variables(variables, optimizer)


def of_variables(
    variables: Mapping[str, Any], optimizer: optax.GradientTransformation
) -> TrainState:
    """The state before the first step, of a model's initial variables."""
    params = variables['params']
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get('batch_stats', {}),
        opt_state=optimizer.init(params),
    )
