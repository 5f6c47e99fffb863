"""Sums over the examples of an activation, and their transpose: what BatchNorm consists of.

    products, sums = summed(x, center, z)     products = sum over n of (x[n] - center) · z[n]
                                              sums     = sum over n of z[n]
    y = scaled(x, center, scale, bias)        y[n]     = (x[n] - center) · scale + bias

`summed` is linear in z, and `scaled` in scale and bias: each is the transpose of the other. So the
pair has reverse and forward mode of any order. x, y and z have one shape; n runs over `axes` of it,
in which the others have size 1. These are float32, or wider if x is. There are no derivatives with
respect to the center.

XLA takes such sums on CPU ten times as long as reading x. There `summed` is in C++ (norm.cc), under
the conditions of `bilinear.py`. `scaled` is left to XLA, which fuses it with what comes after it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from lcn_jax.layer.backends import bilinear
from lcn_jax.layer.backends.native import library

Axes = tuple[int, ...]


def summed(
    x: jax.Array, center: jax.Array, z: jax.Array, axes: Axes
) -> tuple[jax.Array, jax.Array]:
    """products and sums, of the shape and dtype of the center; x and z have one dtype."""
    return _apply(SUMMED, _summed, x, center, z, axes=axes)


def scaled(
    x: jax.Array, center: jax.Array, scale: jax.Array, bias: jax.Array, axes: Axes
) -> jax.Array:
    """y, in the dtype of x."""
    return _apply(SCALED, _scaled, x, center, scale, bias, axes=axes)[0]


def _apply(primitive: Primitive, plain: Callable, *operands: jax.Array, axes: Axes) -> Any:
    if bilinear.is_partitioned(*operands):
        return plain(*operands, axes=axes)
    return primitive.bind(*bilinear.varying_alike(*operands), axes=axes)


# ---- What they compute. --------------------------------------------------------------------------


def _summed(x, center, z, axes):
    z = z.astype(center.dtype)
    products = (x.astype(center.dtype) - center) * z
    return products.sum(axes, keepdims=True), z.sum(axes, keepdims=True)


def _scaled(x, center, scale, bias, axes):
    del axes
    y = (x.astype(center.dtype) - center) * scale + bias
    return (y.astype(x.dtype),)


def _native_summed(x, center, z, axes):
    own = [axis for axis in range(x.ndim - 1) if axis not in axes]
    places = math.prod(x.shape[axis] for axis in own)

    def in_order(array):
        rows = array.transpose(*own, *axes, array.ndim - 1)
        return rows.reshape(places, -1, array.shape[-1])

    of_places = jax.ShapeDtypeStruct((places, x.shape[-1]), jnp.float32)
    found = library.call(
        'lcn_sums', (of_places,) * 2, in_order(x), center.reshape(of_places.shape), in_order(z)
    )
    return [array.reshape(center.shape) for array in found]


# ---- Derivatives. --------------------------------------------------------------------------------


def _summed_jvp(primals, tangents, *, axes):
    x, center, z = primals
    dx, _, dz = map(ad.instantiate_zeros, tangents)
    products, sums = SUMMED.bind(x, center, dz, axes=axes)
    of_dx, _ = SUMMED.bind(dx, jnp.zeros_like(center), z, axes=axes)
    return SUMMED.bind(x, center, z, axes=axes), (products + of_dx, sums)


def _summed_transpose(cotangents, x, center, z, *, axes):
    products, sums = map(ad.instantiate_zeros, cotangents)
    if ad.is_undefined_primal(z):
        return None, None, *SCALED.bind(x, center, products, sums, axes=axes)
    zeros = jnp.zeros_like(products)
    return *SCALED.bind(z, zeros, products, zeros, axes=axes), None, None


def _scaled_jvp(primals, tangents, *, axes):
    x, center, scale, _ = primals
    dx, _, dscale, dbias = map(ad.instantiate_zeros, tangents)
    zeros = jnp.zeros_like(center)
    (of_dx,) = SCALED.bind(dx, zeros, scale, zeros, axes=axes)
    (of_scale,) = SCALED.bind(x, center, dscale, dbias, axes=axes)
    return SCALED.bind(*primals, axes=axes), [of_dx + of_scale]


def _scaled_transpose(cotangents, x, center, scale, bias, *, axes):
    del bias
    (dy,) = map(ad.instantiate_zeros, cotangents)
    if ad.is_undefined_primal(x):
        zeros = jnp.zeros_like(scale)
        return *SCALED.bind(dy, zeros, scale, zeros, axes=axes), None, None, None
    return None, None, *SUMMED.bind(x, center, dy, axes=axes)


# ---- The primitives. -----------------------------------------------------------------------------


@functools.cache
def _types(plain: Callable, *operands: Any, axes: Axes) -> Any:
    return jax.make_jaxpr(functools.partial(plain, axes=axes))(*operands).out_avals


def _batch(primitive: Primitive, operands, batches, *, axes):
    """The batch becomes the first axis."""
    (size,) = {a.shape[axis] for a, axis in zip(operands, batches) if axis is not None}
    alike = [
        jnp.broadcast_to(a, (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
        for a, axis in zip(operands, batches)
    ]
    results = primitive.bind(*alike, axes=tuple(axis + 1 for axis in axes))
    return results, [0] * len(results)


def _lower_on_cpu(context, x, center, z, *, axes):
    of_x = context.avals_in[0]
    native = (
        bilinear.is_whole(context)
        and library.computes(of_x.dtype)
        and of_x.ndim - 1 not in axes
        and of_x.size > 0
    )
    compute = _native_summed if native else _summed
    return mlir.lower_fun(compute, multiple_results=True)(context, x, center, z, axes=axes)


def _register(name: str, plain: Callable, jvp: Callable, transpose: Callable) -> Primitive:
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=('axes',)))
    primitive.def_abstract_eval(functools.partial(_types, plain))
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=True))
    return primitive


SUMMED = _register('sums_over_examples', _summed, _summed_jvp, _summed_transpose)
SCALED = _register('scaled_examples', _scaled, _scaled_jvp, _scaled_transpose)
mlir.register_lowering(SUMMED, _lower_on_cpu, platform='cpu')
