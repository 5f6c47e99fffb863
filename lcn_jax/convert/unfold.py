"""Weights as `torch.nn.Unfold` orders them -> a kernel, and back (docs/from_pytorch.md).

Kernels are (*output, *kernel, C, O). Arrays may be NumPy's or JAX's; dtypes stay.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lcn_jax.convert.convlocal import to_convlocal
from lcn_jax.layer import arguments
from lcn_jax.layer.parameters import kernel_from_convlocal


def from_unfold(weight: Any, output_size: Sequence[int], kernel_size: int | Sequence[int]) -> Any:
    """(positions, O, C·prod(kernel_size)), as `torch.nn.Unfold` orders them -> a kernel.

    Positions are row-major; a patch has the channel first, then the rows and columns.

    Returns:
      (*output_size, *kernel_size, C, O).

    Raises:
      ValueError: the array has another shape.
    """
    arguments.check_array(weight, 'weight')
    output_size = arguments.sizes(output_size, np.size(output_size), 'output_size')
    kernel_size = arguments.sizes(kernel_size, len(output_size), 'kernel_size')
    positions, taps = math.prod(output_size), math.prod(kernel_size)
    if weight.ndim != 3 or weight.shape[0] != positions or weight.shape[2] % taps:
        raise ValueError(
            f'expected (positions, O, patch) = ({positions}, O, C·{taps}) for the output size '
            f'{output_size} and kernel size {kernel_size}, got shape {weight.shape}.'
        )
    patch_before_features = weight.transpose(0, 2, 1).reshape(*output_size, -1, weight.shape[1])
    return kernel_from_convlocal(patch_before_features, kernel_size)


def to_unfold(kernel: Any) -> Any:
    """The inverse of `from_unfold`: (positions, O, C·prod(kernel_size))."""
    flat = to_convlocal({'kernel': kernel})['kernel']
    return flat.reshape(-1, *flat.shape[-2:]).transpose(0, 2, 1)
