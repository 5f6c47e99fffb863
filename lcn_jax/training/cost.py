"""The cost of training a network, counted from shapes: nothing is computed or allocated."""

import dataclasses
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcn_jax.layer.grid import Grid
from lcn_jax.layer.grids import grids
from lcn_jax.layer.local_parameters import by_path
from lcn_jax.layer.low_rank import LowRankConv
from lcn_jax.training.state import TrainState

# Arrays that a step keeps of a convolution for the backward pass: its output, BatchNorm's input
# less the mean, and the input of the next convolution.
KEPT_PER_OUTPUT = 3


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution, shared or locally connected, or a dense layer.

    name: the module's path, with slashes. kernel: its shape. grid: None unless the layer is locally
    connected. outputs: their number for one image. mixed: of a low-rank layer, that of its kernels'
    outputs, of which the layer's are mixed; 0 of others.
    """

    name: str
    kernel: tuple[int, ...]
    grid: Grid | None
    outputs: int
    mixed: int = 0

    @property
    def parameters(self) -> int:
        """The number of the kernel's weights."""
        return math.prod(self.kernel)

    @property
    def flops(self) -> int:
        """FLOPs of the forward pass of one image; a multiplication and an addition are two."""
        positions = math.prod(self.grid.output_size) if self.grid else 1
        inputs_of_neuron = self.parameters // (positions * self.kernel[-1])
        return 2 * self.outputs * inputs_of_neuron


def layers(model: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """All layers with a kernel, in the order of computation, for images (H, W, C)."""
    found = []

    def note(call, args, kwargs, context):
        y = call(*args, **kwargs)
        module = context.module
        if context.method_name == '__call__' and module.has_variable('params', 'kernel'):
            kernel = nn.unbox(module.get_variable('params', 'kernel'))
            mixed = module.rank * y.size if isinstance(module, LowRankConv) else 0
            found.append((module.path, kernel.shape, y.size, mixed))
        return y

    with nn.intercept_methods(note):
        local = by_path(grids(model, image_shape))
    grid_of = {
        path[:-1]: parameter.grid for path, parameter in local.items() if path[-1] == 'kernel'
    }
    return [
        Layer('/'.join(path), kernel, grid_of.get(path), outputs, mixed)
        for path, kernel, outputs, mixed in found
    ]


def step_flops(layers: Sequence[Layer]) -> int:
    """FLOPs of a training step, for one image.

    The backward pass is twice the forward pass, except in the first layer: the gradient of the
    images is not needed. Only products with kernels are counted, not BatchNorm or the optimizer.
    """
    return 3 * sum(layer.flops for layer in layers) - layers[0].flops


def memory(
    train_state: TrainState, layers: Sequence[Layer], images: int, dtype: jnp.dtype
) -> dict[str, int]:
    """An estimate of the bytes on a device during a training step, by their purpose.

    In float32 on CPU the sum is within a quarter of what XLA plans for the compiled step of
    ResNet-20 (batches of 16 to 512) and ResNet-18; for networks with a stage or two it may be 0.6
    of that. bfloat16 takes more there: the CPU computes in float32.

    Args:
      train_state: of one replica; arrays, or their shapes.
      layers: of the network.
      images: of the batch on this device.
      dtype: of the computation.
    """
    itemsize_of_copies = 0 if dtype == jnp.float32 else dtype.itemsize
    numbers_kept = images * sum(KEPT_PER_OUTPUT * layer.outputs + layer.mixed for layer in layers)
    return {
        'parameters': _bytes((train_state.params, train_state.batch_stats)),
        'optimizer': _bytes(train_state.opt_state),
        'gradients and updates': 2 * _bytes(train_state.params),
        'copies of the parameters': itemsize_of_copies * _size(train_state.params),
        'activations': dtype.itemsize * numbers_kept,
    }


def _size(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
