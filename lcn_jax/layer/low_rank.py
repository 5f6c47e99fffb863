"""Low-rank local connectivity: a few kernels for the whole layer, mixed anew at each position.

With K kernels W_k and mixing weights c, the neurons at position p have the kernel

    kernel_p = sum over k of c[p, k] W_k,

so the matrix of kernels, positions × weights, has rank K at most: K = 1 with c = 1 is a
convolution, and K = the number of positions can be any locally connected layer. As in the source,

    c[i, j, :] = softmax(rows[i, :] + columns[j, :]),

from weights of each row and each column of the output that start at 0. So each kernel of the layer
is a weighted mean of the W_k, at the start their plain one, and the layer a convolution. The source
also learns a bias for each row and each column, which is left out here, as in all other layers of
the networks. Source: Elsayed, Ramachandran, Shlens and Kornblith, "Revisiting Spatial Invariance
with Low-Rank Local Connectivity", ICML 2020.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from lcn_jax.layer.arguments import LAYOUTS, check_choice, check_positive, check_shape
from lcn_jax.layer.functional import conv_shared
from lcn_jax.layer.grid import Grid
from lcn_jax.layer.parameters import add_bias, he_normal, spatial_size


def conv_low_rank(
    x: jax.Array,
    kernels: jax.Array,
    mixing: jax.Array,
    *,
    stride: int = 1,
    padding: int = 0,
    layout: str = 'NHWC',
) -> jax.Array:
    """The locally connected layer with kernels `einsum('ijk,k...->ij...', mixing, kernels)`.

    They are never made: one convolution applies all K kernels, and its outputs are mixed. It takes
    K times the FLOPs of a convolution, and memory for K times its outputs.

    Args:
      x: (N, H, W, C), or (H, W, N, C) with `layout='HWNC'`.
      kernels: (K, kh, kw, C, O), same dtype as x.
      mixing: (Ho, Wo, K), same dtype as x.
      stride, padding: of both dimensions, in pixels.

    Returns:
      (N, Ho, Wo, O) or (Ho, Wo, N, O).

    Raises:
      ValueError: the layout is unknown, or the mixing weights do not fit.
    """
    check_choice(layout, LAYOUTS, 'layout')
    rank, *taps, channels, features = kernels.shape
    side_by_side = jnp.moveaxis(kernels, 0, -2).reshape(*taps, channels, rank * features)
    y = conv_shared(x, side_by_side, stride=stride, padding=padding, layout=layout)
    rows, columns = (y.shape[layout.index(axis)] for axis in 'HW')
    check_shape(mixing, (rows, columns, rank), 'mixing', 'output and the kernels, (Ho, Wo, K)')
    mixing = jnp.expand_dims(mixing, layout.index('N'))
    return (y.reshape(*y.shape[:-1], rank, features) * mixing[..., None]).sum(-2)


class LowRankConv(nn.Module):
    """`conv_low_rank` with parameters: takes the place of `LocalConv` in `ResNet`.

    Inputs are (N, H, W, C), or (H, W, N, C) with `layout='HWNC'`. The parameters are `kernel`
    (rank, kernel_size, kernel_size, C, O), `rows` (Ho, rank) and `columns` (Wo, rank), and with
    `use_bias` `bias` (O,), shared by the positions.

    Raises:
      ValueError: the rank is not a positive integer.
    """

    features: int
    kernel_size: int
    rank: int
    strides: int = 1
    padding: int = 0
    use_bias: bool = True
    dtype: Any = None
    layout: str = 'NHWC'

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        check_positive(self.rank, 'rank')
        shape = (self.rank, *(self.kernel_size,) * 2, x.shape[-1], self.features)
        kernel = self.param('kernel', he_normal, shape)
        size = spatial_size(x, shape[1:3], self.layout)
        grid = Grid.create(size, self.kernel_size, self.strides, self.padding)
        zeros = nn.initializers.zeros_init()
        rows = self.param('rows', zeros, (grid.output_size[0], self.rank))
        columns = self.param('columns', zeros, (grid.output_size[1], self.rank))
        bias = self.param('bias', zeros, (self.features,)) if self.use_bias else None
        mixing = nn.softmax(rows[:, None] + columns[None])
        x, kernel, mixing, bias = promote_dtype(x, kernel, mixing, bias, dtype=self.dtype)
        y = conv_low_rank(
            x, kernel, mixing, stride=self.strides, padding=self.padding, layout=self.layout
        )
        return add_bias(y, bias, self.layout)
