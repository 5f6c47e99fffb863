"""AdamW; on CPU in one pass over all parameters, which changes donated ones in place: adamw.cc."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lcn_jax.layer.backends.native import library

B2, EPSILON = 0.999, 1e-8


class AdamW(optax.GradientTransformation):
    """`optax.adamw`, which is the definition, with a learning rate by step.

    It has its numbers as attributes: `new` takes a whole step from them.
    """

    learning_rate: optax.Schedule
    b1: float
    weight_decay: float

    def __new__(cls, learning_rate: optax.Schedule, b1: float, weight_decay: float):
        by_optax = optax.adamw(learning_rate, b1, B2, EPSILON, weight_decay=weight_decay)
        self = super().__new__(cls, *by_optax)
        self.learning_rate, self.b1, self.weight_decay = learning_rate, b1, weight_decay
        return self


def new(
    optimizer: optax.GradientTransformation, grads: Any, opt_state: Any, params: Any
) -> tuple[Any, Any]:
    """Parameters and state after a step with these gradients."""

    def by_optax(grads, opt_state, params):
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    arrays = jax.tree.leaves((grads, params))
    native = jax.default_backend() == 'cpu' and library.computes(jnp.float32)
    if not (
        isinstance(optimizer, AdamW) and native and all(a.dtype == jnp.float32 for a in arrays)
    ):
        return by_optax(grads, opt_state, params)
    in_one_pass = jax.custom_batching.custom_vmap(
        lambda *arguments: _in_one_pass(optimizer, *arguments)
    )

    @in_one_pass.def_vmap
    def of_batch(axis_size, batched, *arguments):
        in_axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, batched)
        results = jax.vmap(by_optax, in_axes, axis_size=axis_size)(*arguments)
        return results, jax.tree.map(lambda _: True, results)

    return in_one_pass(grads, opt_state, params)


def _in_one_pass(optimizer: AdamW, grads, opt_state, params):
    moments, decay, schedule = opt_state
    count = optax.safe_increment(moments.count)
    rate = jnp.asarray(optimizer.learning_rate(schedule.count), jnp.float32)
    numbers = jnp.stack([rate, 1 / (1 - optimizer.b1**count), 1 / (1 - B2**count)])
    leaves, structure = jax.tree.flatten(params)
    changed = [*leaves, *jax.tree.leaves(moments.mu), *jax.tree.leaves(moments.nu)]
    results = jax.ffi.ffi_call(
        'lcn_adamw',
        [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in changed],
        input_output_aliases={1 + i: i for i in range(len(changed))},
    )(
        numbers,
        *changed,
        *jax.tree.leaves(grads),
        b1=np.float64(optimizer.b1),
        b2=np.float64(B2),
        epsilon=np.float64(EPSILON),
        decay=np.float64(optimizer.weight_decay),
    )
    size = len(leaves)
    params, mu, nu = (
        jax.tree.unflatten(structure, results[i * size : (i + 1) * size]) for i in range(3)
    )
    moments = moments._replace(count=count, mu=mu, nu=nu)
    schedule = schedule._replace(count=optax.safe_increment(schedule.count))
    return params, (moments, decay, schedule)
