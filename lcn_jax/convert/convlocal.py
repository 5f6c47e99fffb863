"""Weights of `flax.linen.ConvLocal` -> those of `LocalConv`, and back (docs/from_convlocal.md).

Parameters are those of one layer: {'kernel': (*output, *kernel, C, O), 'bias': (*output, O)} of a
`LocalConv` with `local_bias=True`, without 'bias' where there is none. ConvLocal has no groups.
Arrays may be NumPy's or JAX's; dtypes stay.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from lcn_jax.layer import arguments
from lcn_jax.layer.parameters import kernel_from_convlocal


def from_convlocal(params: Mapping[str, Any], kernel_size: int | Sequence[int]) -> dict[str, Any]:
    """The parameters of a `flax.linen.ConvLocal` -> those of a `LocalConv`.

    An integer kernel size counts for all dimensions.

    Raises:
      ValueError: the kernel does not have the shape (*output, C·prod(kernel_size), O), or the bias
        neither (*output, O) nor (O,).
    """
    kernel = kernel_from_convlocal(kernel_of(params), kernel_size)
    return {**params, 'kernel': kernel, **local_bias(params, kernel)}


def to_convlocal(params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `from_convlocal`; a bias (O,) is repeated at every position.

    The layer must have one group, as ConvLocal has: the kernel does not show how many there are.

    Raises:
      ValueError: the kernel does not have the axes (*output, *kernel, C, O), or the bias neither
        (*output, O) nor (O,).
    """
    kernel = kernel_of(params)
    rank = arguments.kernel_dimensions(kernel)
    positions, taps = range(rank), range(rank, 2 * rank)
    by_channel = kernel.transpose(*positions, 2 * rank, *taps, 2 * rank + 1)
    flat = by_channel.reshape(*kernel.shape[:rank], -1, kernel.shape[-1])
    return {**params, 'kernel': flat, **local_bias(params, kernel)}


def kernel_of(params: Mapping[str, Any]) -> Any:
    """The kernel of one layer's parameters; ValueError if there is none."""
    given = list(params) if isinstance(params, Mapping) else type(params).__name__
    if 'kernel' not in given:
        raise ValueError(f"params must be those of one layer, with a 'kernel'; got {given}.")
    return params['kernel']


def local_bias(params: Mapping[str, Any], kernel: Any) -> dict[str, Any]:
    """{'bias': (*output, O)} for a kernel (*output, *kernel, C, O), {} if there is no bias."""
    if 'bias' not in params:
        return {}
    bias, features = params['bias'], kernel.shape[-1]
    shape = (*kernel.shape[: arguments.kernel_dimensions(kernel)], features)
    arguments.check_array(bias, 'bias')
    if bias.shape not in (shape, (features,)):
        raise ValueError(f'bias must have shape {shape} or {(features,)}, got {bias.shape}.')
    return {'bias': bias if bias.shape == shape else jnp.broadcast_to(bias, shape)}
