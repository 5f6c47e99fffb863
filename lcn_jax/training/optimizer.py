"""The optimizer of a config, and its learning rate by step."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections
import optax

from lcn_jax import divided
from lcn_jax.grid import Pools
from lcn_jax.kernels import kernels, local_kernels, with_kernels


def learning_rate(config: ml_collections.ConfigDict, total_steps: int) -> optax.Schedule:
    """Constant, times `config.drop` at each of the fractions `config.drops_at` of training."""
    drops = {int(total_steps * fraction): config.drop for fraction in config.drops_at}
    return optax.piecewise_constant_schedule(config.learning_rate, drops)


def make(
    config: ml_collections.ConfigDict,
    grids: Mapping,
    total_steps: int,
    shard_axis: str | None = None,
) -> optax.GradientTransformation:
    """AdamW, or SGD, with momentum; both decay all parameters by learning rate × weight decay.

    If sleeps take full steps (`sleep_step.lengthen`), the state has the kernels after the last one.

    With SGD, the gradient of a local kernel is that of its position alone, a small part of the
    gradient of a shared one. It is multiplied by the size of the position's pool, so that a pool
    whose weights are alike moves as the kernel of a convolution would.

    `shard_axis`: of the devices that divide the local kernels in updates. A new state is always
    made for whole ones.
    """
    rate, border = learning_rate(config, total_steps), config.sleep.border
    if config.optimizer == 'adamw':  # which divides by the size of the gradient
        made = optax.adamw(rate, b1=config.momentum, weight_decay=config.weight_decay)
    else:
        made = optax.chain(
            times_pool_size(grids, border, shard_axis),
            optax.trace(config.momentum),
            optax.add_decayed_weights(config.weight_decay),
            optax.scale_by_learning_rate(rate),
        )
    full_steps = config.sleep.full_step and config.sleep.rule != 'none'
    return optax.chain(made, after_sleep(grids)) if full_steps else made


class AfterSleep(NamedTuple):
    """after_sleep: the local kernels at the end of the last sleep."""

    after_sleep: dict[str, Any]


def after_sleep(grids: Mapping) -> optax.GradientTransformation:
    """Keeps `AfterSleep` for `sleep_step`; before the first sleep, the initial kernels."""

    def init(params: Any) -> AfterSleep:
        return AfterSleep(local_kernels(params, grids))

    return optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))


def times_pool_size(
    grids: Mapping, border: str, shard_axis: str | None = None
) -> optax.GradientTransformation:
    """Multiplies the updates of local kernels by the number of neurons in the pool, 1 outside."""

    def update(updates: Any, params: Any = None) -> Any:
        del params
        changed = {}
        for path, kernel, grid in kernels(updates, grids, shard_axis):
            size = Pools.of(grid, border).size.reshape(grid.in_pool(border).shape)
            changed[path] = kernel * divided.own(size.astype(kernel.dtype), grid, shard_axis)
        return with_kernels(updates, changed)

    return optax.stateless(update)
