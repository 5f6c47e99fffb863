"""How errors get from the output to the hidden layers: by backprop, or without weight transport.

Backprop sends the error of a layer's output back through the layer's own weights, which no synapse
could know. The other rules send it through random weights that stay as they are:

    backprop    dx = W^T dy
    alignment   dx = B^T dy     feedback alignment (Lillicrap et al., Nature Communications 2016)
    direct      dx = D e        direct feedback alignment (Nøkland, NeurIPS 2016)
    readout     dx = 0          nothing: only the last layer learns; the control

for every layer with a kernel W (convolutional, locally connected or dense), input x and output y.
dx, dy and e are the gradients of the loss with respect to x, y and the logits. All else, such as
norms, activations and shortcuts without weights, sends errors back as in backprop.

B has the shape of W and is drawn as the layer draws W, so a locally connected layer has local
feedback: a kernel of its own at every position, also where `config.model.init` makes W alike. If B
sleeps, too, all positions of a pool have its mean: that is where every sleep takes weights that
never learn. The mean of N kernels is 1 / sqrt(N) as large as each. D is a matrix
(classes, *positions, C) for each input, normal with variance 1 / classes and divided by the number
of positions, as the errors of a mean over positions are. B and D are drawn again in each step, from
a key that stays the same, so they need no memory.

A rule is a function `(model, variables, images, key, rngs) -> (logits, updated)` for training. The
values are those of `model.apply`, which gets `rngs`, those of dropout for example; the gradients
with respect to 'params' are those of the rule.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from lcn_jax.layer.local_parameters import Path, by_path
from lcn_jax.sleep.pools import Pools

Rule = Callable[..., tuple[jax.Array, Mapping]]


def backprop(
    model: nn.Module,
    variables: Mapping,
    images: jax.Array,
    key: jax.Array | None,
    rngs: Mapping[str, jax.Array] | None = None,
) -> tuple[jax.Array, Mapping]:
    """Logits and the updated 'batch_stats', with plain gradients; `key` is unused."""
    del key
    return _forward(model, variables, images, rngs)


def alignment(
    model: nn.Module,
    variables: Mapping,
    images: jax.Array,
    key: jax.Array,
    rngs: Mapping[str, jax.Array] | None = None,
    asleep: Callable[[Path, Any], Any] = lambda path, weights: weights,
) -> tuple[jax.Array, Mapping]:
    """As `backprop`, with feedback alignment.

    The feedback of the layer at a path is what the layer's `init` makes of `layer_key`, and
    `asleep(path, variables)` of that.
    """

    def layer(call, x, module):
        twin = module.clone(parent=None, name=None)

        def feedback(x, key):
            return twin.apply(asleep(module.path, twin.init(key, x)), x)

        return _with_gradient_of(feedback, call(lax.stop_gradient(x)), x, layer_key(key, module))

    with _layers(layer):
        return _forward(model, variables, images, rngs)


def direct(
    model: nn.Module,
    variables: Mapping,
    images: jax.Array,
    key: jax.Array,
    rngs: Mapping[str, jax.Array] | None = None,
) -> tuple[jax.Array, Mapping]:
    """As `backprop`, with direct feedback alignment.

    Layers with an attribute `layout` have the examples where it has N, others in front.
    """
    logits, updated, inputs = _without_errors(model, variables, images, rngs)
    axes, xs, keys = zip(*((axis, x, layer_key(key, module)) for axis, x, module in inputs))
    return _sending_errors(axes, logits, xs, keys), updated


def readout(
    model: nn.Module,
    variables: Mapping,
    images: jax.Array,
    key: jax.Array | None,
    rngs: Mapping[str, jax.Array] | None = None,
) -> tuple[jax.Array, Mapping]:
    """As `backprop`, but no error gets to an input: only the last layer learns. `key` is unused."""
    del key
    logits, updated, _ = _without_errors(model, variables, images, rngs)
    return logits, updated


RULES: dict[str, Rule] = {
    'backprop': backprop,
    'alignment': alignment,
    'direct': direct,
    'readout': readout,
}


def means(path: Path, variables: Mapping, *, grids: Mapping, border: str) -> Mapping:
    """The variables of the layer at a path, with the mean of each pool as all its local kernels."""
    local = by_path(grids).get((*path, 'kernel'))
    if local is None:
        return variables
    params = variables['params']
    kernel = Pools.of(local, border).averaged(params['kernel'])
    return {**variables, 'params': {**params, 'kernel': kernel}}


def layer_key(key: jax.Array, layer: nn.Module) -> jax.Array:
    """The key of a layer's feedback: `key` folded with the CRC-32 of the layer's path."""
    return jax.random.fold_in(key, zlib.crc32('/'.join(layer.path).encode()))


def _forward(model, variables, images, rngs) -> tuple[jax.Array, Mapping]:
    return model.apply(variables, images, train=True, mutable=['batch_stats'], rngs=rngs)


def _layers(function: Callable) -> Any:
    """Within this context, `function(call, x, module)` takes the place of `call(x)` of layers."""

    def intercept(call, args, kwargs, context):
        module = context.module
        if context.method_name != '__call__' or not module.has_variable('params', 'kernel'):
            return call(*args, **kwargs)
        (x,) = (*args, *kwargs.values())
        return function(call, x, module)

    return nn.intercept_methods(intercept)


def _without_errors(model, variables, images, rngs):
    """Logits and updates, with no errors at inputs, and (axis of examples, input, layer) tuples."""
    inputs = []

    def layer(call, x, module):
        inputs.append((getattr(module, 'layout', 'N').index('N'), x, module))
        return call(lax.stop_gradient(x))

    with _layers(layer):
        return *_forward(model, variables, images, rngs), inputs


def _with_backward(backward: Callable) -> Callable:
    """A function `(static, y, inputs, keys) -> y` that sends other errors to the inputs.

    They are `backward(static, inputs, keys, dy)`; `static` is not an array.
    """

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def function(static, y, inputs, keys):
        del static, inputs, keys
        return y

    function.defvjp(
        lambda static, y, inputs, keys: (y, (inputs, keys)),
        lambda static, residuals, dy: (dy, backward(static, *residuals, dy), None),
    )
    return function


@_with_backward
def _with_gradient_of(function: Callable, x: jax.Array, key: jax.Array, dy: jax.Array) -> jax.Array:
    """The gradient of `function(x, key)` with respect to x."""
    (dx,) = jax.vjp(lambda x: function(x, key), x)[1](dy)
    return dx


@_with_backward
def _sending_errors(
    axes: tuple[int, ...],
    inputs: tuple[jax.Array, ...],
    keys: tuple[jax.Array, ...],
    errors: jax.Array,
) -> tuple[jax.Array, ...]:
    """The errors of the logits, sent to these inputs with the examples along `axes`."""
    classes = errors.shape[-1]

    def sent(axis, x, key):
        shape = x.shape[:axis] + x.shape[axis + 1 :]
        weights = jax.random.normal(key, (classes, *shape), errors.dtype)
        scale = 1 / (math.sqrt(classes) * math.prod(shape[:-1]))
        dx = scale * jnp.tensordot(errors, weights, 1)
        return jnp.moveaxis(dx, 0, axis).astype(x.dtype)

    return tuple(map(sent, axes, inputs, keys))
