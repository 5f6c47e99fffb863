"""The least time of a training step on accelerators, from its FLOPs and the bytes it moves."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import ml_collections

from experiments.configs import cifar10, imagenet
from experiments.reports.style import table
from lcn_jax.training import cost
from lcn_jax.training.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Device:
    """flops: of dense bfloat16 products with float32 sums, a second. bandwidth: bytes a second."""

    name: str
    flops: float
    bandwidth: float


@dataclasses.dataclass(frozen=True)
class Network:
    get_config: Callable[[str], ml_collections.ConfigDict]
    name: str
    batch_sizes: tuple[int, ...]  # on one device


DEVICES = (Device('H100 SXM', 989e12, 3.35e12), Device('TPU v5e', 197e12, 819e9))
NETWORKS = (
    Network(cifar10.get_config, 'ResNet-20, CIFAR-10', (128, 1024)),
    Network(imagenet.get_config, 'ResNet-18 of half width, 224×224', (64, 256)),
)
DTYPE = jnp.dtype('bfloat16')
FLOAT32 = 4  # bytes
PURPOSES = ('weights', 'gradients', 'AdamW', 'activations', 'patches')

# How often a step reads or writes an array.
ADAMW = 6  # reads and writes parameters and both moments
KERNEL_COPY = 3  # written, and read forward and backward
GRADIENT = 2  # written by the backward pass, read by AdamW
# Of each output of a layer. Forward: the product writes y; BatchNorm reads it once for the mean and
# once for the variance, then again to write the next layer's input, which that layer reads.
# Backward: that layer reads its input again and writes the gradient; BatchNorm reads the gradient
# and y twice each, and writes dy, which both backward products read.
ACTIVATION = 15
PATCHES = 3  # written and read forward, kept, and read backward
PATCH_GRADIENTS = 2  # written by the product, read to be added up

PAGE = """# Roofline

An estimate of the speed of a training step on one accelerator. Nothing here was measured: the
longer of two times counts, that of the step's FLOPs at the peak rate of products, and that of its
bytes at the bandwidth of the memory. The shapes of the networks give both:

```
python -m experiments.roofline --out=docs/roofline.md
```

Assumptions:

- {devices}.
- Products take bfloat16 and sum in float32. A locally connected layer is one batched matrix product
  forward and two backward (`implementation='patches'`).
- FLOPs are those of products with kernels, forward and backward.
- Weights: the float32 parameters are read once and copied to bfloat16; the copy is read forward and
  backward. Gradients are written and read once, in bfloat16. AdamW reads and writes parameters and
  both moments in float32.
- Activations: {activation} passes over the outputs of every layer in bfloat16. BatchNorm takes
  four forward and five backward, since its statistics need all outputs first. ReLU, the residual
  sum and conversions are fused with it. Nothing stays in a cache (the H100 has 50 MB), so
  the bytes of a small batch may be overestimated.
- Patches, which are what each position sees, are written and read forward, kept, and read again
  backward. Their gradient is written and read once; images need none, and 1×1 layers have no
  patches. A kernel that forms patches in fast memory, as a convolution does, would do without this
  traffic.
- Memory is estimated as `experiments.describe` does.

XLA compiled the step of ResNet-20 with 512 images for an H200, without one: its kernels move
12.35 GB, and these assumptions give {planned:,.2f}. For a TPU, XLA plans 45 GB for the same step,
since it pads the last axis of arrays to 128 numbers: the TPU's columns are too optimistic for
layers with fewer channels.

## Work

{work}

## Time

{times}
"""


def step_bytes(parameters: int, layers: Sequence[cost.Layer], images: int) -> dict[str, int]:
    """The bytes that a training step of `images` images reads and writes, by purpose."""
    activations = images * sum(layer.outputs for layer in layers)
    local = [layer for layer in layers if layer.grid and math.prod(layer.grid.kernel_size) > 1]
    passes = [
        PATCHES + (0 if layer is layers[0] else PATCH_GRADIENTS)  # images need no gradient
        for layer in local
    ]
    patches = [images * layer.flops // (2 * layer.kernel[-1]) for layer in local]
    counts = (
        parameters * (FLOAT32 + KERNEL_COPY * DTYPE.itemsize),
        parameters * GRADIENT * DTYPE.itemsize,
        parameters * ADAMW * FLOAT32,
        activations * ACTIVATION * DTYPE.itemsize,
        sum(n * times for n, times in zip(patches, passes)) * DTYPE.itemsize,
    )
    return dict(zip(PURPOSES, counts))


def page() -> str:
    """The page in Markdown."""
    work, times, planned = [], [], 0.0
    for network, kind in itertools.product(NETWORKS, ('conv', 'lc')):
        config = network.get_config(kind)
        config.model.dtype = DTYPE.name
        experiment = Experiment.create(config)
        layers = cost.layers(experiment.network.model, experiment.network.image_shape)
        for images in network.batch_sizes:
            name = f'{network.name}: {"LC" if kind == "lc" else kind}'
            flops = images * cost.step_flops(layers)
            moved = step_bytes(experiment.network.parameters, layers, images)
            memory = sum(cost.memory(experiment.shapes, layers, images, DTYPE).values())
            gigabytes = (f'{n / 1e9:,.2f}' for n in (*moved.values(), memory))
            millions = f'{experiment.network.parameters / 1e6:,.2f}'
            work.append([name, images, millions, f'{flops / 1e9:,.0f}', *gigabytes])
            total = sum(moved.values())
            times.append([name, images, *bounds(flops, total)])
            if kind == 'lc':
                if network is NETWORKS[0]:
                    planned = sum(step_bytes(experiment.network.parameters, layers, 512).values())
                name, total = f'{name}, patches in fast memory', total - moved['patches']
                times.append([name, images, *bounds(flops, total)])
    return PAGE.format(
        devices='; '.join(
            f'{d.name}: {d.flops / 1e12:,.0f} TFLOP/s, {d.bandwidth / 1e9:,.0f} GB/s'
            for d in DEVICES
        ),
        activation=ACTIVATION,
        planned=planned / 1e9,
        work=table(
            ['network', 'batch', 'parameters, millions', 'GFLOP']
            + [f'{purpose}, GB' for purpose in (*PURPOSES, 'memory')],
            work,
        ),
        times=table(
            ['network', 'batch']
            + [
                f'{d.name}: {what}' for d in DEVICES for what in ('FLOPs, ms', 'bytes, ms', 'bound')
            ],
            times,
        ),
    )


def bounds(flops: int, moved: int) -> list[str]:
    """Of each device: milliseconds for the FLOPs, for the bytes, and which of them is the bound."""
    cells = []
    for device in DEVICES:
        of_flops, of_bytes = flops / device.flops, moved / device.bandwidth
        cells += [f'{1e3 * seconds:,.2f}' for seconds in (of_flops, of_bytes)]
        cells.append('FLOPs' if of_flops > of_bytes else 'bytes')
    return cells
