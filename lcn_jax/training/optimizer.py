"""The optimizer of a config, and its learning rate by step."""

import collections
from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import ml_collections
import optax

from lcn_jax.layer.each_local import map_parts
from lcn_jax.sleep.pools import pool_sizes
from lcn_jax.training.adamw import B2, AdamW

KERAS_EPSILON = 1e-7


def learning_rate(config: ml_collections.ConfigDict, total_steps: int) -> optax.Schedule:
    """Constant, times `config.drop` at each of the fractions `config.drops_at` of training."""
    times = collections.Counter(int(total_steps * fraction) for fraction in config.drops_at)
    drops = {step: config.drop**number for step, number in times.items()}
    return optax.piecewise_constant_schedule(config.learning_rate, drops)


def make(
    config: ml_collections.ConfigDict, grids: Mapping, total_steps: int
) -> optax.GradientTransformation:
    """AdamW, Adam, SGD or β-LASSO, with momentum, of gradients as `config.clip` leaves them.

    All but Adam decay parameters by learning rate × weight decay. Adam is that of Keras, with an
    L2 penalty of kernels in the loss, weight decay / 2 · |p|²: Keras's L2(l) is a weight decay of
    2 l.

    With SGD, the gradient of a local kernel is that of its position alone, a small part of the
    gradient of a shared one. With `config.times_pool_size` it is multiplied by the size of the
    position's pool, so that a pool whose weights are alike moves as the kernel of a convolution
    would. After the epoch `config.sleep.until`, which ends the sleeps, gradients are plain.

    β-LASSO (Neyshabur, "Towards Learning Convolutions from Scratch", 2020) is SGD that makes the
    weights p of kernels small, and those below a threshold 0. With the momentum v of the gradients,

        p <- p - learning rate (v + lasso sign p),     then p <- 0 where |p| < beta lasso.

    These are all parameters called 'kernel', shared and local ones and those of dense layers;
    biases and the scales of norms are not among them.
    """
    made = _make(config, grids, total_steps)
    return optax.chain(clipped(config.clip), made) if config.clip else made


def _make(
    config: ml_collections.ConfigDict, grids: Mapping, total_steps: int
) -> optax.GradientTransformation:
    rate = learning_rate(config, total_steps)
    if config.optimizer == 'adamw':  # which divides by the size of the gradient
        return AdamW(rate, config.momentum, config.weight_decay)
    if config.optimizer == 'adam':
        decay = _of_kernels(lambda gradient, p: gradient + config.weight_decay * p)
        return optax.chain(decay, optax.adam(rate, config.momentum, B2, KERAS_EPSILON))
    lasso = config.lasso if config.optimizer == 'beta_lasso' else 0
    scaled = optax.identity()
    if config.times_pool_size:
        scaled = times_pool_size(grids, config.pools.border)
    if config.sleep.until and config.sleep.rule != 'none':
        last = total_steps * config.sleep.until // config.epochs
        scaled = optax.conditionally_transform(scaled, lambda step, **_: step < last)
    return optax.chain(
        scaled,
        optax.trace(config.momentum),
        optax.add_decayed_weights(config.weight_decay),
        *([add_signs(lasso)] if lasso else []),
        optax.scale_by_learning_rate(rate),
        *([threshold(config.beta * lasso)] if lasso else []),
    )


def clipped(largest: float) -> optax.GradientTransformation:
    """Scales the gradient by each parameter down to this norm, if it is larger, as Keras does."""

    def of_leaf(gradient):
        norm = jnp.sqrt((gradient**2).sum())
        return gradient * jnp.minimum(1, largest / jnp.where(norm > 0, norm, 1))

    return optax.stateless(lambda updates, params: jax.tree.map(of_leaf, updates))


def times_pool_size(grids: Mapping, border: str) -> optax.GradientTransformation:
    """Multiplies updates of local parameters by the number of neurons in the pool, 1 outside."""

    def multiplied(local, update):
        return update * local.own(pool_sizes(local, border).astype(update.dtype))

    return optax.stateless(lambda updates, params: map_parts(multiplied, grids, updates))


def add_signs(lasso: float) -> optax.GradientTransformation:
    """Adds to the update of a kernel p the gradient of lasso |p|, which is lasso sign(p)."""
    return _of_kernels(lambda update, p: update + lasso * jnp.sign(p))


def threshold(smallest: float) -> optax.GradientTransformation:
    """Makes weights of kernels 0 that would be smaller than this after the update."""
    return _of_kernels(lambda update, p: jnp.where(jnp.abs(p + update) < smallest, -p, update))


def _of_kernels(function: Callable) -> optax.GradientTransformation:
    """`function(update, parameter)` of the parameters that are called 'kernel'."""

    def of_leaf(path, update, parameter):
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        return function(update, parameter) if names[-1:] == ['kernel'] else update

    return optax.stateless(partial(jax.tree_util.tree_map_with_path, of_leaf))
