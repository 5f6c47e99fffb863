"""The All-TNN: local layers whose neurons lie on a sheet.

Lu et al., "End-to-end topographic networks as models of cortical map formation and human visual
behaviour", Nature Human Behaviour 2025.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from lcn_jax.layer.linen import LocalConv
from lcn_jax.layer.norm import BatchNorm

NORMS = ('none', 'shared', 'layer')

# Of Keras, in which the published network is written.
MOMENTUM, EPSILON = 0.99, 1e-3

# The published network, for images of 150 pixels; all kernels and strides are square.
FEATURES = (64, 81, 81, 256, 256, 2500)
KERNEL_SIZES = (7, 3, 3, 3, 3, 3)
STRIDES = (3, 1, 1, 1, 1, 1)
POOLED = (1, 3, 5)


def sizes(
    image_size: int, kernel_sizes: Sequence[int], strides: Sequence[int], pooled: Sequence[int]
) -> list[int]:
    """Rows of positions behind each layer and its pool, below 1 if none are left; so columns."""
    found, size = [], image_size
    for number, (kernel_size, stride) in enumerate(zip(kernel_sizes, strides), 1):
        size = (size - kernel_size) // stride + 1
        size = size // 2 if number in pooled else size
        found.append(size)
    return found


def glorot_of_keras(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Uniform in ± sqrt(6 / fans) with fans = positions · (weights of a neuron + features).

    What Keras's 'glorot_uniform' draws for the kernel (positions, weights of a neuron, features) of
    a local layer: it takes the positions for taps. shape: (H, W, kh, kw, C, O), or (kh, kw, C, O).
    """
    *positions, kh, kw, channels, features = shape
    fans = math.prod(positions) * (kh * kw * channels + features)
    if not positions:  # of a convolution, whose features count once for each tap
        fans = kh * kw * (channels + features)
    limit = math.sqrt(6 / fans)
    two_axes = (math.prod(positions), kh * kw * channels * features)  # see parameters.he_normal
    return jax.random.uniform(key, two_axes, dtype, -limit, limit).reshape(shape)


class AllTNN(nn.Module):
    """Images (N, H, W, C), normalised -> float32 logits (N, classes).

    Layer i is: a local layer without padding, with a bias for each neuron; ReLU; a norm; dropout;
    and, if i is in `pooled`, a max pool over 2×2 positions. Dropout and a dense readout follow.

    `norm` is 'none'; 'shared', BatchNorm with what all positions share; or 'layer', LayerNorm over
    the features of a position. `dropout` is the rate. If not `local`, convolutions are in place of
    the local layers, as in the network that the paper compares with.

    In 'intermediates' are the activations 'layer1' and so on, before dropout and pool. Kernels are
    'conv1', with norms 'norm1', and 'logits'.
    """

    num_classes: int
    features: tuple[int, ...] = FEATURES
    kernel_sizes: tuple[int, ...] = KERNEL_SIZES
    strides: tuple[int, ...] = STRIDES
    pooled: tuple[int, ...] = POOLED
    norm: str = 'none'
    dropout: float = 0.0
    local: bool = True
    dtype: Any = jnp.float32
    batch_axis: str | None = None  # set to synchronise the batch statistics over devices
    local_conv: Callable = LocalConv

    @property
    def layout(self) -> str:
        return 'HWNC' if self.local else 'NHWC'

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = images.astype(self.dtype)
        if self.local:
            x = x.transpose(1, 2, 0, 3)
        geometry = zip(self.features, self.kernel_sizes, self.strides)
        for number, (features, kernel_size, stride) in enumerate(geometry, 1):
            x = nn.relu(self._conv(number, features, kernel_size, stride)(x))
            x = self._normalised(x, f'norm{number}', train)
            self.sow('intermediates', f'layer{number}', x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            if number in self.pooled:
                x = self._max_pool(x)
        if self.local:
            x = x.transpose(2, 0, 1, 3)
        x = nn.Dropout(self.dropout, deterministic=not train)(x.reshape(len(x), -1))
        init = nn.initializers.glorot_uniform()
        return nn.Dense(self.num_classes, kernel_init=init, name='logits')(x.astype(jnp.float32))

    @nn.nowrap
    def _conv(self, number: int, features: int, kernel_size: int, stride: int) -> nn.Module:
        kwargs: dict[str, Any] = dict(
            features=features,
            kernel_size=(kernel_size, kernel_size),
            strides=(stride, stride),
            padding='VALID',
            kernel_init=glorot_of_keras,
            dtype=self.dtype,
            name=f'conv{number}',
        )
        if not self.local:
            return nn.Conv(**kwargs)
        return self.local_conv(local_bias=True, layout=self.layout, **kwargs)

    @nn.nowrap
    def _normalised(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        if self.norm == 'none':
            return x
        if self.norm == 'layer':
            return nn.LayerNorm(EPSILON, dtype=self.dtype, name=name)(x)
        norm = BatchNorm(
            use_running_average=not train,
            momentum=MOMENTUM,
            epsilon=EPSILON,
            axis_name=self.batch_axis if train else None,
            dtype=self.dtype,
            name=name,
        )
        return norm(x)

    @nn.nowrap
    def _max_pool(self, x: jax.Array) -> jax.Array:
        """The largest of 2×2 positions; a last odd row or column is left out.

        As the larger of two arrays, twice: on a CPU, the derivative of `lax.reduce_window` takes
        longer than all layers together.
        """
        for axis in (self.layout.index('H'), self.layout.index('W')):
            pairs = x.shape[axis] // 2 * 2
            one, other = (lax.slice_in_dim(x, k, pairs, stride=2, axis=axis) for k in (0, 1))
            x = jnp.maximum(one, other)
        return x
