"""ResNets for CIFAR and ImageNet with the convolution injected: shared or locally connected."""

import math
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax

from lcn_jax.layer.linen import LocalConv
from lcn_jax.layer.norm import LocalNorm
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
        y = lax.conv_general_dilated(
            x,
            kernel,
            (self.strides,) * 2,
            ((self.padding, self.padding),) * 2,
            dimension_numbers=(self.layout, 'HWIO', self.layout),
        )
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

    `norm` is 'shared' for BatchNorm after each convolution with statistics, scale and offset that
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
        return 'HWNC' if self.local else 'NHWC'

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        pixel_axes = (self.layout.index('H'), self.layout.index('W'))
        biases = self.norm == 'none'
        batch_norm: dict[str, Any] = dict(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            axis_name=self.batch_axis if train else None,
            dtype=self.dtype,
        )
        made = 0

        def conv(x, features, kernel_size, strides, name, norm, count=True):
            nonlocal made
            if count:
                made += 1
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
            if not self.local or made <= self.n_first_conv or re.fullmatch(self.shared, name):
                layer = Conv(**kwargs)
            else:
                layer = self.local_conv(**kwargs, **({'local_bias': True} if biases else {}))
            y = layer(x)
            if biases:
                return y
            if self.norm == 'local' and hasattr(layer, 'grid'):
                axes: Any = tuple(axis for axis, of in enumerate(self.layout) if of != 'N')
                return LocalNorm(layer=layer.grid(x), axis=axes, name=norm, **batch_norm)(y)
            return nn.BatchNorm(name=norm, **batch_norm)(y)

        x = images.astype(self.dtype)
        if self.local:
            x = x.transpose(1, 2, 0, 3)
        kernel_size, strides = STEMS[self.stem]
        x = nn.relu(conv(x, self.width, kernel_size, strides, 'stem_conv', 'stem_norm'))
        if self.stem == 'imagenet':
            window, stride, pad = ([1] * 4, [1] * 4, [(0, 0)] * 4)
            for a in pixel_axes:
                window[a], stride[a], pad[a] = 3, 2, (1, 1)
            x = lax.reduce_window(x, -jnp.inf, lax.max, window, stride, pad)
        self.sow('intermediates', 'stem', x)

        branch = 1 / math.sqrt(sum(self.stage_sizes)) if biases else 1
        for stage, blocks in enumerate(self.stage_sizes, 1):
            features = self.width * 2 ** (stage - 1)
            for block in range(1, blocks + 1):
                strides = 2 if stage > 1 and block == 1 else 1
                name = f'stage{stage}_block{block}'
                y = nn.relu(conv(x, features, 3, strides, f'{name}_conv1', f'{name}_norm1'))
                if strides > 1 or x.shape[-1] != features:
                    names = f'{name}_shortcut', f'{name}_shortcut_norm'
                    x = conv(x, features, 1, strides, *names, count=False)
                y = conv(y, features, 3, 1, f'{name}_conv2', f'{name}_norm2')
                x = nn.relu(x + branch * y)
                self.sow('intermediates', name, x)

        x = x.mean(pixel_axes, dtype=jnp.float32)
        self.sow('intermediates', 'pooled', x)
        return nn.Dense(self.num_classes, name='logits')(x)
