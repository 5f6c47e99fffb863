"""ResNets for CIFAR and ImageNet with the convolution injected: shared or locally connected."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax

from lcn_jax.local import LocalConv, he_normal

# Kernel size and stride of the first convolution; 'imagenet' has a max pool of stride 2 after it.
STEMS = {'cifar': (3, 1), 'strided': (3, 2), 'imagenet': (7, 2)}


class Conv(nn.Module):
    """A bias-free convolution with kernel (kh, kw, C, O), in either layout of `conv_local`."""

    features: int
    kernel_size: int
    strides: int
    padding: int
    layout: str
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size,) * 2 + (x.shape[-1], self.features)
        kernel = self.param('kernel', he_normal, shape)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        return lax.conv_general_dilated(
            x,
            kernel,
            (self.strides,) * 2,
            ((self.padding, self.padding),) * 2,
            dimension_numbers=(self.layout, 'HWIO', self.layout),
        )


class ResNet(nn.Module):
    """Images (N, H, W, 3 or 1), normalised -> float32 logits (N, classes).

    Basic blocks; every stage after the first halves the resolution and doubles the width.
    Projection shortcuts are 1×1 convolutions; no convolution has a bias; BatchNorm is shared by all
    positions. ResNet-20 is `stage_sizes=(3, 3, 3), width=16, stem='cifar'`; the half-width
    ResNet-18 is `(2, 2, 2, 2), 32, 'imagenet'`. `stem` is one of STEMS.

    The first `n_first_conv` convolutions in the order of computation (shortcuts not counted: they
    follow the first convolution of their block) are shared, and so are those whose whole name is
    matched by the regular expression `shared`: '.*_shortcut' are the 1×1 convolutions. The others
    are made by `local_conv` if `local`; it gets the arguments of `Conv`, and `use_bias=False`.

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
    dtype: Any = jnp.float32
    batch_axis: str | None = None  # set to synchronise the batch statistics over devices
    local_conv: Callable = LocalConv

    @property
    def layout(self) -> str:
        return 'HWNC' if self.local else 'NHWC'

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        pixel_axes = (self.layout.index('H'), self.layout.index('W'))
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            axis_name=self.batch_axis if train else None,
            dtype=self.dtype,
        )
        made = 0

        def conv(features, kernel_size, strides, name, count=True):
            nonlocal made
            if count:
                made += 1
            kwargs: dict[str, Any] = dict(
                features=features,
                kernel_size=kernel_size,
                strides=strides,
                padding=(kernel_size - 1) // 2,
                layout=self.layout,
                dtype=self.dtype,
                name=name,
            )
            shared = made <= self.n_first_conv or re.fullmatch(self.shared, name)
            if self.local and not shared:
                return self.local_conv(use_bias=False, **kwargs)
            return Conv(**kwargs)

        x = images.astype(self.dtype)
        if self.local:
            x = x.transpose(1, 2, 0, 3)
        kernel_size, strides = STEMS[self.stem]
        x = conv(self.width, kernel_size, strides, 'stem_conv')(x)
        x = nn.relu(norm(name='stem_norm')(x))
        if self.stem == 'imagenet':
            window, stride, pad = ([1] * 4, [1] * 4, [(0, 0)] * 4)
            for a in pixel_axes:
                window[a], stride[a], pad[a] = 3, 2, (1, 1)
            x = lax.reduce_window(x, -jnp.inf, lax.max, window, stride, pad)
        self.sow('intermediates', 'stem', x)

        for stage, blocks in enumerate(self.stage_sizes, 1):
            features = self.width * 2 ** (stage - 1)
            for block in range(1, blocks + 1):
                strides = 2 if stage > 1 and block == 1 else 1
                name = f'stage{stage}_block{block}'
                y = conv(features, 3, strides, f'{name}_conv1')(x)
                if strides > 1 or x.shape[-1] != features:
                    x = conv(features, 1, strides, f'{name}_shortcut', count=False)(x)
                    x = norm(name=f'{name}_shortcut_norm')(x)
                y = nn.relu(norm(name=f'{name}_norm1')(y))
                y = norm(name=f'{name}_norm2')(conv(features, 3, 1, f'{name}_conv2')(y))
                x = nn.relu(x + y)
                self.sow('intermediates', name, x)

        x = x.mean(pixel_axes, dtype=jnp.float32)
        self.sow('intermediates', 'pooled', x)
        return nn.Dense(self.num_classes, name='logits')(x)
