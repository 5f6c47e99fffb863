"""ResNets for CIFAR and ImageNet with the convolution injected: shared or locally connected."""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax

from lcn_jax.layer.backends.bilinear import has_native
from lcn_jax.layer.functional import conv_shared
from lcn_jax.layer.linen import LocalConv
from lcn_jax.layer.norm import BatchNorm, LocalNorm
from lcn_jax.layer.parameters import add_bias, he_normal

# Kernel size and stride of the first convolution; 'imagenet' has a max pool of stride 2 after it.
STEMS = {'cifar': (3, 1), 'strided': (3, 2), 'imagenet': (7, 2)}


class Conv(nn.Module):
    """A convolution with kernel (kh, kw, C, O) and bias (O,), in either layout of `conv_local`."""

    features: int
    kernel_size: int
    strides: int
    padding: int
    layout: str
    use_bias: bool = False
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size,) * 2 + (x.shape[-1], self.features)
        kernel = self.param('kernel', he_normal, shape)
        zeros = nn.initializers.zeros_init()
        bias = self.param('bias', zeros, (self.features,)) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = conv_shared(x, kernel, stride=self.strides, padding=self.padding, layout=self.layout)
        return add_bias(y, bias, self.layout)


class ResNet(nn.Module):
    """Images (N, H, W, 3 or 1), normalised -> float32 logits (N, classes).

    Basic blocks; every stage after the first halves the resolution and doubles the width.
    Projection shortcuts are 1×1 convolutions. ResNet-20 is `stage_sizes=(3, 3, 3), width=16,
    stem='cifar'`; the half-width ResNet-18 is `(2, 2, 2, 2), 32, 'imagenet'`. `stem` is one of
    STEMS.

    The first `n_first_conv` convolutions in the order of computation (shortcuts not counted: they
    follow the first convolution of their block) are shared, and so are those whose whole name is
    matched by the regular expression `shared`: '.*_shortcut' are the 1×1 convolutions. The others
    are made by `local_conv` if `local`; it gets the arguments of `Conv`, and `local_bias` with a
    bias.

    `norm` is 'shared' for BatchNorm after each convolution with statistics, scale and bias that
    all positions share; 'local' for `LocalNorm` after the local ones, in which they do not; 'none'
    for biases instead, one at every position of the local ones. Otherwise no convolution has a
    bias. Without BatchNorm the branches of B blocks are multiplied by 1 / sqrt(B), or activations
    would grow from block to block (Hayou et al., "Stable ResNet", AISTATS 2021).

    `layout` is that of everything inside. In 'intermediates' are the activations 'stem' (what the
    first block receives), 'stage1_block1' and so on, and 'pooled' (N, channels).
    """

    stage_sizes: tuple[int, ...]
    width: int
    stem: str
    num_classes: int
    local: bool
    n_first_conv: int = 0
    shared: str = ''
    norm: str = 'shared'
    dtype: Any = jnp.float32
    batch_axis: str | None = None  # set to synchronise the batch statistics over devices
    local_conv: Callable = LocalConv

    @property
    def layout(self) -> str:
        return 'HWNC' if self.local or has_native(self.dtype) else 'NHWC'

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        unit = partial(self._unit, train=train)
        x = images.astype(self.dtype)
        if self.layout == 'HWNC':
            x = x.transpose(1, 2, 0, 3)
        x = nn.relu(unit(x, 'stem_conv', self.width, *STEMS[self.stem]))
        if self.stem == 'imagenet':
            x = _max_pool(x, self.layout)
        self.sow('intermediates', 'stem', x)
        for stage, blocks in enumerate(self.stage_sizes, 1):
            features = self.width * 2 ** (stage - 1)
            for block in range(1, blocks + 1):
                name, strides = f'stage{stage}_block{block}', 2 if stage > 1 and block == 1 else 1
                x = self._block(x, name, features, strides, unit)
                self.sow('intermediates', name, x)
        x = x.mean((self.layout.index('H'), self.layout.index('W')), dtype=jnp.float32)
        self.sow('intermediates', 'pooled', x)
        return nn.Dense(self.num_classes, name='logits')(x)

    @nn.nowrap
    def _block(
        self, x: jax.Array, name: str, features: int, strides: int, unit: Callable
    ) -> jax.Array:
        y = nn.relu(unit(x, f'{name}_conv1', features, 3, strides))
        if strides > 1 or x.shape[-1] != features:
            x = unit(x, f'{name}_shortcut', features, 1, strides)
        y = unit(y, f'{name}_conv2', features, 3, 1)
        scale = 1 / math.sqrt(sum(self.stage_sizes)) if self.norm == 'none' else 1
        return nn.relu(x + scale * y)

    @nn.nowrap
    def _unit(
        self, x: jax.Array, name: str, features: int, kernel_size: int, strides: int, train: bool
    ) -> jax.Array:
        """A convolution, or the local layer in its place, and what normalises it."""
        local, biases = self._is_local(name), self.norm == 'none'
        kwargs: dict[str, Any] = dict(
            features=features,
            kernel_size=kernel_size,
            strides=strides,
            padding=(kernel_size - 1) // 2,
            layout=self.layout,
            use_bias=biases,
            dtype=self.dtype,
            name=name,
        )
        if local and biases:
            kwargs['local_bias'] = True
        layer = (self.local_conv if local else Conv)(**kwargs)
        y = layer(x)
        if biases:
            return y
        norm: dict[str, Any] = dict(
            name=name.replace('conv', 'norm') if 'conv' in name else f'{name}_norm',
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            axis_name=self.batch_axis if train else None,
            dtype=self.dtype,
        )
        if self.norm == 'local' and hasattr(layer, 'grid'):
            axes: Any = tuple(axis for axis, of in enumerate(self.layout) if of != 'N')
            return LocalNorm(layer=layer.grid(x), axis=axes, **norm)(y)
        return BatchNorm(**norm)(y)

    @nn.nowrap
    def _is_local(self, name: str) -> bool:
        """Whether the convolution of this name has a kernel at every position."""
        in_order = ['stem_conv'] + [
            f'stage{stage}_block{block}_conv{number}'
            for stage, blocks in enumerate(self.stage_sizes, 1)
            for block in range(1, blocks + 1)
            for number in (1, 2)
        ]
        stays = name.replace('shortcut', 'conv1') in in_order[: self.n_first_conv]
        return self.local and not stays and not re.fullmatch(self.shared, name)


def _max_pool(x: jax.Array, layout: str) -> jax.Array:
    """The largest of 3×3 pixels at every second pixel."""
    window, strides, padding = [1] * 4, [1] * 4, [(0, 0)] * 4
    for axis in (layout.index('H'), layout.index('W')):
        window[axis], strides[axis], padding[axis] = 3, 2, (1, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)
