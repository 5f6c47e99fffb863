"""Learning while awake: the training step and the evaluation.

Written for one device and wrapped by `parallel.per_device`; `parallel.AXIS` runs over the devices.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from lcn_jax.data.batches import Pixels, eval_batch, train_batch
from lcn_jax.learning import feedback
from lcn_jax.training import adamw, freezing, parallel, sharding
from lcn_jax.training.metrics import Sums
from lcn_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True, eq=False)
class Learner:
    """How a network learns.

    forward: a rule of `lcn_jax/learning/feedback.py`. penalty: of the params and the step, added to
    the loss but not to the metrics; None for none. frozen: names what does not learn
    (`freezing.py`); the optimizer knows it, too. mean: (gradients, batch statistics) -> their means
    over the devices. batch: a `BatchSpec`, for `step`.
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    forward: feedback.Rule = feedback.backprop
    penalty: Callable[[Any, jax.Array], jax.Array] | None = None
    frozen: str = ''
    mean: Callable[[Any, Any], tuple[Any, Any]] = sharding.mean
    batch: Any = None


def update(
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array | None = None,
    noise_key: jax.Array | None = None,
    *,
    learner: Learner,
) -> tuple[TrainState, Sums]:
    """One step on a device's part of the batch, the gradients averaged over devices.

    images (N, H, W, C), normalised; labels (N,) int; `key` is that of the feedback weights, the
    same in all steps; `noise_key` that of random numbers in the model, such as dropout's. Returns
    the state after the step, and the sums over these N images before it.
    """
    # Under this name Flax finds it for whatever a model calls its random numbers.
    rngs = None if noise_key is None else {'params': noise_key}

    def loss_fn(params):
        variables = state.variables | {'params': params}
        logits, updated = learner.forward(learner.model, variables, images, key, rngs)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        loss = losses.mean()
        if learner.penalty is not None:
            loss += learner.penalty(params, state.step)
        return loss, (logits, updated.get('batch_stats', {}))

    grads, (logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    grads, batch_stats = learner.mean(grads, batch_stats)
    params, opt_state = adamw.new(learner.optimizer, grads, state.opt_state, state.params)
    state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=params,
        batch_stats=freezing.kept(learner.frozen, batch_stats, state.batch_stats),
        opt_state=opt_state,
    )
    return state, Sums.of(logits, labels, jnp.ones(labels.shape, bool))


def step(
    state: TrainState,
    sums: Sums,
    pixels: Pixels,
    order: jax.Array | None,
    key: jax.Array,
    *,
    learner: Learner,
) -> tuple[TrainState, Sums]:
    """Makes this device's part of the next batch, learns from it, and adds metrics to `sums`."""
    shard = parallel.shard()
    images, labels = train_batch(pixels, order, key, state.step, learner.batch, shard)
    # The two keys that are split off the step's are the batch's.
    noise_key = jax.random.fold_in(jax.random.fold_in(key, state.step), 2 + shard[0])
    state, new = update(state, images, labels, key, noise_key, learner=learner)
    # Nothing is added after a loss that is not finite, so that the count tells its step.
    still_finite = jnp.isfinite(sums.loss)
    added = jax.tree.map(
        lambda value: jnp.where(still_finite, value, 0), lax.psum(new, parallel.AXIS)
    )
    return state, sums + added


def run_steps(
    state: TrainState,
    sums: Sums,
    pixels: Pixels,
    order: jax.Array | None,
    key: jax.Array,
    steps: jax.Array,
    *,
    learner: Learner,
) -> tuple[TrainState, Sums]:
    """Runs `steps` wake steps of one epoch without leaving the device."""

    def body(_, carry):
        state, sums = carry
        return step(state, sums, pixels, order, key, learner=learner)

    # The number of steps is an argument, so that all numbers of steps are one program.
    return lax.fori_loop(0, steps, body, (state, sums))


def compile_steps(learner: Learner) -> Callable:
    """`run_steps` on all devices; on CPU the host loops over the steps.

    XLA:CPU computes the gradients of a convolution many times slower in a loop (jax issue 12868),
    and a call costs next to nothing there.
    """
    if jax.default_backend() != 'cpu':
        program = partial(run_steps, learner=learner)
        return parallel.per_device(program, (0, 0, 0, 0, None, None), donate=[0, 1])
    one = parallel.per_device(partial(step, learner=learner), (0, 0, 0, 0, None), donate=[0, 1])

    def run_on_host(state, sums, pixels, order, key, steps):
        for _ in range(steps):
            state, sums = one(state, sums, pixels, order, key)
        return state, sums

    return run_on_host


def is_finite(state: TrainState) -> jax.Array:
    """Whether every number of the state is finite on all devices, () bool."""
    finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]).all()
    return lax.pmin(finite.astype(jnp.int32), parallel.AXIS) == 1


def evaluate(
    variables: Any,
    pixels: Pixels,
    *,
    model: nn.Module,
    batch_size: int,
    size: int,
    measure: Callable[..., Any] = Sums.of,
) -> Any:
    """`measure(logits, labels, exists)`, summed over the examples in the `pixels` of all devices.

    Each is counted once. `batch_size` is that of one device; images are cropped to `size` pixels.
    """

    def of_batch(i):
        images, labels, exists = eval_batch(
            pixels, i * batch_size, batch_size=batch_size, size=size
        )
        return measure(model.apply(variables, images, train=False), labels, exists)

    def body(i, total):
        return jax.tree.map(jnp.add, total, of_batch(i))

    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(of_batch, 0))
    rounds = -(-len(pixels.labels) // batch_size)
    return lax.psum(lax.fori_loop(0, rounds, body, zero), parallel.AXIS)
