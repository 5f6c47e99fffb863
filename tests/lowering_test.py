"""The programs for GPUs and TPUs, as JAX hands them to XLA, read on a machine without either.

A locally connected layer must be one batched matrix product forward and two backward, and what the
backward pass keeps must not hold the patches, which are as many times the activations as the kernel
has taps.
"""

import collections
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.mlir.dialects import stablehlo
from jax.sharding import Mesh, PartitionSpec
from reference import initial_state

from lcn_jax.layer.functional import conv_local
from lcn_jax.layer.linen import LocalConv
from lcn_jax.networks.resnet import ResNet
from lcn_jax.training import cost, parallel, wake

IMAGES, IMAGE_SHAPE = 5, (8, 8, 3)
SHORT = {'float32': 'f32', 'bfloat16': 'bf16'}  # what StableHLO calls the types
everywhere = pytest.mark.parametrize('platform', ['cuda', 'tpu'])
each_dtype = pytest.mark.parametrize('dtype', SHORT)


class Product(NamedTuple):
    """The sizes of a batched matrix product, whichever operand comes first."""

    batch: tuple[int, ...]
    summed: int
    free: tuple[int, ...]


def operations(traced: jax.stages.Traced, platform: str) -> dict[str, list]:
    """The operations of a program's StableHLO, by name."""
    lowered = traced.lower(lowering_platforms=(platform,))
    found = collections.defaultdict(list)

    def visit(op):
        found[op.name].append(op)
        for region in op.regions:
            for block in region:
                for inner in block:
                    visit(inner.operation)

    visit(lowered.compiler_ir('stablehlo').operation)
    return found


def product_of(op) -> Product:
    """Of a `stablehlo.dot_general`."""
    axes = stablehlo.DotDimensionNumbers(op.attributes['dot_dimension_numbers'])
    left, right = (operand.type.shape for operand in op.operands)
    batch = tuple(left[axis] for axis in axes.lhs_batching_dimensions)
    summed = math.prod(left[axis] for axis in axes.lhs_contracting_dimensions)
    of_operand = math.prod(batch) * summed
    return Product(batch, summed, sorted_pair(*(math.prod(s) // of_operand for s in (left, right))))


def sorted_pair(a: int, b: int) -> tuple[int, ...]:
    return tuple(sorted((a, b)))


def products_of_layer(positions, seen, features, images=IMAGES) -> list[Product]:
    """y, the gradient of the kernel, and that of the patches."""
    sizes = (images, seen, features)
    return [
        Product(positions, sizes[i], sorted_pair(*sizes[:i], *sizes[i + 1 :])) for i in (1, 0, 2)
    ]


def element_types(op) -> tuple[list[str], str]:
    operands, (result,) = op.operands, op.results
    return [str(o.type.element_type) for o in operands], str(result.type.element_type)


def network(dtype) -> ResNet:
    """The default of a lowering for another platform is that of this one, so it is named."""
    return ResNet(
        stage_sizes=(1, 1), width=4, stem='cifar', num_classes=10, local=True,
        dtype=jnp.dtype(dtype), local_conv=functools.partial(LocalConv, implementation='patches'),
    )  # fmt: skip


@everywhere
@each_dtype
@pytest.mark.parametrize('spatial', [(9,), (5, 4), (3, 4, 2)], ids=str)
def test_a_layer_is_one_batched_product(spatial, dtype, platform):
    """In any number of dimensions; its inputs are not converted to another type before."""
    grid_size = tuple((n - 1) // 2 + 1 for n in spatial)
    x = jax.ShapeDtypeStruct((*spatial, IMAGES, 4), dtype)
    kernel = jax.ShapeDtypeStruct((*grid_size, *(3 for _ in spatial), 4, 6), dtype)
    layer = functools.partial(
        conv_local, stride=2, padding=1, layout='HWNC', implementation='patches'
    )
    found = operations(jax.jit(layer).trace(x, kernel), platform)
    (product,) = found['stablehlo.dot_general']
    assert product_of(product) == products_of_layer(grid_size, 4 * 3 ** len(spatial), 6)[0]
    assert element_types(product) == ([SHORT[dtype]] * 2, 'f32')
    for absent in ('custom_call', 'while', 'gather', 'scatter', 'convolution', 'transpose'):
        assert not found[f'stablehlo.{absent}']


@functools.cache
def traced_step(dtype) -> jax.stages.Traced:
    model, optimizer = network(dtype), optax.adamw(1e-3)
    create = functools.partial(initial_state, model, optimizer, IMAGE_SHAPE)
    arguments = (
        jax.eval_shape(create, jax.random.key(0)),
        jax.ShapeDtypeStruct((IMAGES, *IMAGE_SHAPE), jnp.float32),
        jax.ShapeDtypeStruct((IMAGES,), jnp.int32),
    )
    step = jax.shard_map(
        functools.partial(wake.update, learner=wake.Learner(model, optimizer)),
        mesh=Mesh(np.array(jax.devices()[:1]), (parallel.AXIS,)),
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec(),
    )
    return jax.jit(step).trace(*arguments)


@everywhere
@each_dtype
@pytest.mark.slow
def test_a_training_step_has_three_products_a_layer(dtype, platform):
    found = operations(traced_step(dtype), platform)
    expected = collections.Counter()
    for number, layer in enumerate(cost.layers(network(dtype), IMAGE_SHAPE)):
        *seen, features = layer.kernel[2:] if layer.grid else layer.kernel
        positions = layer.grid.output_size if layer.grid else ()
        products = products_of_layer(positions, math.prod(seen), features)
        expected.update(products if number else products[:2])  # images need no gradient
    products = found['stablehlo.dot_general']
    assert collections.Counter(map(product_of, products)) == expected
    assert {element_types(product)[1] for product in products} == {'f32'}
    for absent in ('custom_call', 'while', 'convolution'):
        assert not found[f'stablehlo.{absent}'], absent


@everywhere
def test_bfloat16_is_what_backward_products_take(platform):
    """Sums are float32, but a product of float32 operands takes at least twice the time."""
    x, kernel, dy = (
        jax.ShapeDtypeStruct(shape, jnp.bfloat16)
        for shape in ((8, IMAGES, 4), (8, 3, 4, 6), (8, IMAGES, 6))
    )
    layer = functools.partial(conv_local, padding=1, layout='HWNC', implementation='patches')

    def gradients(x, kernel, dy):
        return jax.vjp(layer, x, kernel)[1](dy)

    traced = jax.jit(gradients).trace(x, kernel, dy)
    products = operations(traced, platform)['stablehlo.dot_general']
    assert [element_types(product)[0] for product in products] == [['bf16', 'bf16']] * 2


def test_the_backward_pass_of_a_layer_keeps_its_input_and_kernel():
    x = jax.ShapeDtypeStruct((8, 8, IMAGES, 4), jnp.float32)
    kernel = jax.ShapeDtypeStruct((8, 8, 3, 3, 4, 6), jnp.float32)
    layer = functools.partial(conv_local, padding=1, layout='HWNC', implementation='patches')
    kept = jax.eval_shape(lambda *operands: jax.vjp(layer, *operands)[1], x, kernel)
    assert {leaf.shape for leaf in jax.tree.leaves(kept)} == {x.shape, kernel.shape}


def test_the_backward_pass_of_a_network_keeps_no_patches():
    model, images = network('float32'), jnp.zeros((IMAGES, *IMAGE_SHAPE))
    variables = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), images
    )

    def pullback(variables):
        apply = functools.partial(model.apply, train=True, mutable=['batch_stats'])
        return jax.vjp(lambda params: apply({**variables, 'params': params}, images)[0],
                       variables['params'])[1]  # fmt: skip

    kept = jax.tree.leaves(jax.eval_shape(pullback, variables))
    parameters = {leaf.shape for leaf in jax.tree.leaves(variables)}
    activations = [leaf.size for leaf in kept if leaf.shape not in parameters]
    most = max(layer.outputs for layer in cost.layers(model, images.shape[1:]))
    assert max(activations) == IMAGES * most
