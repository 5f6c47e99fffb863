"""The activations of a model for a batch.

A model names its activations by sowing them in 'intermediates' (docs/models.md).
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from lcn_jax.errors import UsageError


def main_layers(model: nn.Module, variables: Any, image_shape: tuple) -> tuple[str, ...]:
    """What a model sows, except 'stem', in the order of computation; and 'logits', its output."""
    names = []

    def trace(variables, images):
        _, state = model.apply(variables, images, train=False, mutable=['intermediates'])
        names.extend(_by_name(dict(state).get('intermediates', {})))  # dicts leave a trace sorted

    jax.eval_shape(trace, variables, jnp.zeros((1, *image_shape)))
    return (*(name for name in names if name != 'stem'), 'logits')


@functools.partial(jax.jit, static_argnames=('model', 'layers'))
def activations(
    variables: Any, images: jax.Array, *, model: nn.Module, layers: tuple[str, ...]
) -> dict[str, jax.Array]:
    """Some layers for normalised images (N, H, W, C): float32, (N, H, W, C) or (N, ...).

    Layers are what the model sows, 'logits' (the output of the model), and the outputs of all
    modules, named by their paths; of a module that is called several times, the last. UsageError,
    which lists all layers, if there is no such layer.
    """
    logits, state = model.apply(variables, images, train=False, capture_intermediates=True)
    found = _by_name(state['intermediates']) | {'logits': logits}
    unknown = [name for name in layers if name not in found]
    if unknown:
        raise UsageError(f'unknown layer {unknown[0]!r}; known: {", ".join(found)}.')
    order = [getattr(model, 'layout', 'NHWC').index(axis) for axis in 'NHWC']

    def channels_last(values):
        return (values.transpose(order) if values.ndim == 4 else values).astype(np.float32)

    return {name: channels_last(found[name]) for name in layers}


def _by_name(intermediates: Mapping) -> dict[str, jax.Array]:
    """Activations that a model sowed, as 'path/of/module/name', or Flax captured, 'path/of/module'.

    The last of several values under a name; without scalars and what is not an array.
    """
    found = {}
    for path, values in flax.traverse_util.flatten_dict(intermediates).items():
        last = values[-1] if isinstance(values, tuple) else values
        name = '/'.join(part for part in path if part != '__call__')
        if name and isinstance(last, jax.Array) and last.ndim > 1:
            found[name] = last
    return found
