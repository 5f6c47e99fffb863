"""The layer and its two gradients as bilinear primitives of JAX, and what computes them.

    y = forward(x, kernel)    dx = input_gradient(dy, kernel)    dkernel = kernel_gradient(x, dy)

Each is linear in both operands, and its derivative by either operand is one of the three again. So
this one family has reverse and forward mode of any order, and `vmap` folds a batch into an axis
that is already there. An implementation is a module with these three functions of
`(a, b, grid, groups)`, for grids without circular padding:

    x (*input, N, groups·C)    kernel (*output, *kernel, C, O)    y (*output, N, O)

If all positions share one kernel (*kernel, C, O), the layer is a convolution.

Those for CPUs run there, where the arrays of a program are whole: on one device, under `pmap`, and
inside `shard_map`. Programs that the compiler is to partition, that are exported or for other
platforms get what compilers partition well instead: `patches.py`, or `convolution.py`.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from lcn_jax.layer.backends import convolution, direct, native, patches
from lcn_jax.layer.grid import Grid

MODULES: dict[str, Any] = {'native': native, 'direct': direct, 'patches': patches}
CONVOLUTIONS: dict[str, Any] = {'native': native.Convolution, 'lax': convolution}
IMPLEMENTATIONS = (*MODULES, 'lax')

# Weights per position above which one product wins: it is faster than a sum of one for each tap,
# and its copies of x are small beside the kernels.
MANY_WEIGHTS = 16384

# The last axes of each array, with the groups G apart from the channels C and the features O.
AXES = {'x': 'NGC', 'kernel': 'CGO', 'y': 'NGO'}


class _Operation(NamedTuple):
    name: str
    operands: tuple[str, str]
    result: str
    primitive: Primitive


FORWARD, *_ = OPERATIONS = tuple(
    _Operation(name, operands, result, Primitive(f'locally_connected_{name}'))
    for name, operands, result in (
        ('forward', ('x', 'kernel'), 'y'),
        ('input_gradient', ('y', 'kernel'), 'x'),
        ('kernel_gradient', ('x', 'y'), 'kernel'),
    )
)


# ---- The layer, by the fastest implementation. ---------------------------------------------------


def default_implementation(weights: tuple[int, ...], dtype: Any = jnp.float32) -> str:
    """The implementation that None stands for, on the default backend.

    It is 'patches', except on CPU: there it is 'native'. If that is not available or does not
    compute in the dtype, it is the faster of the others: 'patches' for kernels of size 1 and where
    a position has MANY_WEIGHTS or more (measured with `experiments.benchmark`), else 'direct'.

    Args:
      weights: the shape (*kernel, C // groups, O) of the weights of a position.
      dtype: of the computation.
    """
    if has_native(dtype):
        return 'native'
    if jax.default_backend() != 'cpu':
        return 'patches'
    one_tap = math.prod(weights[:-2]) == 1
    return 'patches' if one_tap or math.prod(weights) >= MANY_WEIGHTS else 'direct'


def has_native(dtype: Any) -> bool:
    """The default backend is the CPU, and 'native' is available and computes in this dtype."""
    return jax.default_backend() == 'cpu' and native.computes(dtype)


def implementations(dtype: Any = jnp.float32) -> tuple[str, ...]:
    """Those of IMPLEMENTATIONS that work here in this dtype."""
    return tuple(name for name in IMPLEMENTATIONS if name != 'native' or native.computes(dtype))


def compute(
    x: jax.Array,
    kernel: jax.Array,
    grid: Grid,
    groups: int,
    precision: Any,
    implementation: str | None,
) -> jax.Array:
    """The layer without circular padding, of arrays as described above."""
    weights = kernel.shape[grid.dimensions :]
    implementation = implementation or default_implementation(weights, x.dtype)
    if implementation == 'lax':
        return patches.reference(x, kernel, grid, groups, precision)
    if is_partitioned(x, kernel):
        return patches.recomputed(x, kernel, grid, groups, precision)
    return _apply(
        x, kernel, grid=grid, groups=groups, shared=False, precision=precision,
        implementation=implementation,
    )  # fmt: skip


def convolve(x: jax.Array, kernel: jax.Array, grid: Grid, groups: int) -> jax.Array:
    """The layer whose positions share one kernel, without circular padding: a convolution."""
    if not has_native(x.dtype) or is_partitioned(x, kernel):
        return convolution.forward(x, kernel, grid, groups)
    return _apply(
        x, kernel, grid=grid, groups=groups, shared=True, precision=None, implementation='native'
    )


def is_partitioned(*arrays: jax.Array) -> bool:
    """On a mesh where the types of arrays say how they are split, operations must be plain JAX."""
    explicit = jax.sharding.AxisType.Explicit
    return any(explicit in jax.typeof(array).sharding.mesh.axis_types for array in arrays)


# ---- The primitives. -----------------------------------------------------------------------------


def _apply(x: jax.Array, kernel: jax.Array, **params: Any) -> jax.Array:
    """The layer: x (*input, N, groups·C), kernel (*output, *kernel, C, groups·O) of one dtype.

    params: grid, groups, shared (the kernel is (*kernel, C, groups·O)), precision (of products in
    `patches.py`), implementation.
    """
    return FORWARD.primitive.bind(*varying_alike(x, kernel), **params)


def varying_alike(*operands: jax.Array) -> tuple[jax.Array, ...]:
    """Inside `shard_map`, all operands vary over the axes over which one of them does.

    Then JAX sums the gradient of an operand that is the same on all devices. Concatenating an empty
    slice of the others marks all as varying, in all versions of JAX.
    """
    if jax.sharding.AxisType.Manual not in jax.sharding.get_abstract_mesh().axis_types:
        return operands

    def like(array, others):
        empty = [
            jax.lax.stop_gradient(other)
            .ravel()[:0]
            .reshape(0, *array.shape[1:])
            .astype(array.dtype)
            for other in others
        ]
        return jnp.concatenate([array, *empty])

    return tuple(like(a, operands[:i] + operands[i + 1 :]) for i, a in enumerate(operands))


def _result_shape(operation: _Operation, a: Any, b: Any, grid: Grid, groups: int, shared: bool):
    shapes = dict(zip(operation.operands, (a.shape, b.shape)))
    if operation.result == 'y':
        return (*grid.output_size, shapes['x'][-2], shapes['kernel'][-1])
    if operation.result == 'x':
        return (*grid.input_size, shapes['y'][-2], shapes['kernel'][-2] * groups)
    channels, features = shapes['x'][-1] // groups, shapes['y'][-1]
    positions = () if shared else grid.output_size
    return (*positions, *grid.kernel_size, channels, features)


# ---- What an operation computes. -----------------------------------------------------------------


def _compute(
    operation: _Operation, a, b, *, grid, groups, shared, precision, implementation
) -> jax.Array:
    if 0 in a.shape or 0 in b.shape:
        return jnp.zeros(_result_shape(operation, a, b, grid, groups, shared), a.dtype)
    module = (CONVOLUTIONS if shared else MODULES)[implementation]
    options = {'precision': precision} if implementation == 'patches' else {}
    return getattr(module, operation.name)(a, b, grid, groups, **options)


def _lower(operation: _Operation, context, a, b, **params):
    compute = functools.partial(_compute, operation, **params)
    return mlir.lower_fun(compute, multiple_results=False)(context, a, b)


def _lower_elsewhere(operation: _Operation, context, a, b, **params):
    plain = 'lax' if params['shared'] else 'patches'
    return _lower(operation, context, a, b, **params | {'implementation': plain})


def _lower_on_cpu(operation: _Operation, context, a, b, **params):
    lower = _lower if is_whole(context) else _lower_elsewhere
    return lower(operation, context, a, b, **params)


def is_whole(context: mlir.LoweringRuleContext) -> bool:
    """The program stays here, and the compiler does not divide its arrays among devices."""
    axes = context.module_context.axis_context
    if isinstance(axes, mlir.ShardingContext):
        divided = axes.num_devices > 1
    else:
        divided = isinstance(axes, mlir.SPMDAxisContext) and axes.manual_axes < set(
            axes.mesh.axis_names
        )
    return not divided and not context.module_context.lowering_parameters.for_export


def _result_type(operation: _Operation, a, b, *, grid, groups, shared, **_):
    """JAX says over which axes of a `shard_map` a result of both operands varies."""
    shape = _result_shape(operation, a, b, grid, groups, shared)
    like = jax.make_jaxpr(lambda a, b: jnp.broadcast_to(a.sum() * b.sum(), shape))(a, b)
    return like.out_avals[0].update(dtype=a.dtype, weak_type=False)


# ---- Batches and derivatives. --------------------------------------------------------------------


def _split(array: jax.Array, axis: int, outer: int) -> jax.Array:
    """Splits an axis, counted from the end, in two."""
    axis += array.ndim
    inner = array.shape[axis] // outer
    return array.reshape(*array.shape[:axis], outer, inner, *array.shape[axis + 1 :])


def _merge(array: jax.Array, axis: int) -> jax.Array:
    """Merges an axis, counted from the end, with the one after it."""
    axis += array.ndim
    merged = array.shape[axis] * array.shape[axis + 1]
    return array.reshape(*array.shape[:axis], merged, *array.shape[axis + 2 :])


def _fold(array: jax.Array, role: str, batch: int, into: str, groups: int) -> jax.Array:
    """The axis `batch` becomes the outer part of the axis `into` of AXES."""
    axis = AXES[role].index(into) - 3
    array = _split(jnp.moveaxis(array, batch, 0), -1, groups)
    return _merge(_merge(jnp.moveaxis(array, 0, axis - 1), axis - 1), -2)


def _unfold(array: jax.Array, role: str, size: int, into: str, groups: int) -> jax.Array:
    """The inverse of `_fold`, with the batch in front; `groups` are those of the folded array."""
    axis = AXES[role].index(into) - 3
    array = _split(_split(array, -1, groups), axis, size)
    return _merge(jnp.moveaxis(array, axis - 1, 0), -2)


def _batch(operation: _Operation, arrays, batches, *, groups: int, **params: Any):
    """A batch of both operands becomes groups; of one, the axis that it shares with the result."""
    batched = [r for r, batch in zip(operation.operands, batches) if batch is not None]
    (size,) = {a.shape[batch] for a, batch in zip(arrays, batches) if batch is not None}
    if size == 0:
        one = [a if batch is None else a.sum(batch) for a, batch in zip(arrays, batches)]
        result = operation.primitive.bind(*one, groups=groups, **params)
        return jnp.empty_like(result, shape=(0, *result.shape)), 0
    shared = set(AXES[operation.result]).intersection(*(AXES[role] for role in batched))
    into = 'G' if len(batched) == 2 else (shared - {'G'}).pop()
    folded = [
        array if batch is None else _fold(array, role, batch, into, groups)
        for array, role, batch in zip(arrays, operation.operands, batches)
    ]
    groups = groups * size if into == 'G' else groups
    result = operation.primitive.bind(*folded, groups=groups, **params)
    return _unfold(result, operation.result, size, into, groups), 0


def _transpose(operation: _Operation, unknown: int, cotangent, *operands, **params: Any):
    """The operation that returns an array like operand number `unknown`."""
    other = 1 - unknown
    arrays = {operation.result: cotangent, operation.operands[other]: operands[other]}
    wanted = operation.operands[unknown]
    (transposed,) = (found for found in OPERATIONS if found.result == wanted)
    return transposed.primitive.bind(*(arrays[role] for role in transposed.operands), **params)


def _register(operation: _Operation) -> None:
    primitive = operation.primitive
    static = ('grid', 'groups', 'shared', 'precision', 'implementation')
    compiled = jax.jit(primitive.bind, static_argnames=static)

    def evaluate(*operands, **params):
        with jax.disable_jit(False):  # or `compiled` would come back to here
            return compiled(*operands, **params)

    primitive.def_impl(evaluate)
    primitive.def_abstract_eval(functools.partial(_result_type, operation))
    ad.defbilinear(primitive, *(functools.partial(_transpose, operation, i) for i in (0, 1)))
    batching.primitive_batchers[primitive] = functools.partial(_batch, operation)
    mlir.register_lowering(primitive, functools.partial(_lower_elsewhere, operation))
    mlir.register_lowering(primitive, functools.partial(_lower_on_cpu, operation), platform='cpu')


for _operation in OPERATIONS:
    _register(_operation)
