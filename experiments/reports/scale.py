"""What a training step costs on many accelerators, with whole and with divided local kernels."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from experiments.configs import cifar10, imagenet
from experiments.reports.roofline import DEVICES as ACCELERATORS
from experiments.reports.roofline import DTYPE, FLOAT32, Device, step_bytes, table
from lcn_jax.layer.backends import divided
from lcn_jax.layer.grid import Grid
from lcn_jax.training import cost
from lcn_jax.training.cost import KEPT_PER_OUTPUT, Layer
from lcn_jax.training.experiment import Experiment

COUNTS = (8, 64, 512)  # of devices
GIGABYTE = 1e9
STATE_ARRAYS = 4  # parameters, gradients and both moments of AdamW, in float32
HOST = 8  # devices of a host, which NVLink joins
NVLINK, INFINIBAND = 450e9, 50e9  # bytes a second that a device sends
TORUS = 200e9  # of a v5e, over its four links

PAGE = """# Scale

What a training step of a locally connected network costs on many devices, with whole kernels on
each and with kernels that the devices divide (`config.shard_kernels`). The tables were counted from
shapes, not measured, by

```
python -m experiments.scale --out=docs/scale.md
```

[What XLA plans](../experiments/results#networks-larger-than-a-device) for eight devices of a CPU
was measured.

## How kernels are divided

No other position uses the weights of a position. So each device keeps the kernels of its own
positions, with gradients and moments, and computes these positions for the images of *all* devices:
the activations that they see are sent to it, and what it computes is sent back to the devices of
the images ([`lcn_jax/divided.py`](../lcn_jax/divided.py)). Weights never move, and gradients need
no sum over devices. The positions of a layer are divided in a row, in equal parts, so any number of
devices can share any layer, also 8 devices the 7×7 positions of a ResNet's last stage (7 each, the
last none). The alternative, strips of rows that stay on a device from layer to layer and exchange
halos only, sends less, but has nothing to give to 8 devices where there are 7 rows. Everything
else, BatchNorm and the readout included, is computed for the device's own images as before, so the
rest of the program does not change. A sleep gathers one kernel at a time.

## Assumptions

- {accelerators}; a step's products take FLOPs at this rate, or the time of the bytes in memory if
  that is longer, as on the [page of the roofline](roofline.md).
- Every device has the same number of images whatever their number (weak scaling): {batches}.
  Activations travel in bfloat16, gradients of whole kernels in float32.
- An H100 sends {nvlink} GB/s to the others of its host of {host}, and {infiniband} GB/s to other
  hosts at the same time; an all-reduce sends an eighth of its bytes to other hosts, an all-to-all
  all but those for its own host. A TPU v5e sends {torus} GB/s over its four links; in an all-to-all
  on a two-dimensional torus every byte passes as many links as there are hops between two devices
  on average. (A v5e pod has 256 devices: 512 are one that does not exist.)
- Whole kernels: an all-reduce of all gradients sends 2 (N − 1) / N of their bytes.
- Divided kernels: an all-to-all sends the pixels that the positions of a device see from all
  images, and another returns the outputs; both are repeated backward, except for the gradient of
  the images.
- Communication does not overlap with computation.
- Memory: parameters, gradients and moments in float32, {kept} bfloat16 arrays for each output of a
  layer, and the bfloat16 copy of the parameters.
- ResNet-50 has bottleneck blocks with the stride in the 3×3 convolution; this project has none, so
  its layers are listed by the script.

## Networks

{networks}

## A step

Memory in GB a device; what a device sends, in GB a step; milliseconds for computation and
communication.

{steps}

## What follows

- On 8 devices, dividing is better in all respects: the half-width ResNet-18 needs 1.4 GB on each
  instead of 8.9, the full width 4.7 instead of 33, ResNet-50 12 instead of 76. In these three, a
  tenth of the bytes travels. What travels grows with the number of images, not with the kernels.
- On 64 devices, computing and sending together still take less time for the three networks of
  ImageNet, and more for ResNet-20. Memory ends at the activations of a device's own images, so more
  devices bring little there.
- What a device sends in an all-to-all grows with the number of devices: all of them have images,
  and a small part of the positions sees more pixels than its share. On 512 devices it takes longer
  than the all-reduce of whole kernels. There, the devices should divide the kernels in groups, and
  average gradients over the groups. This is not built: `config.shard_kernels` divides among all
  devices.
"""


@dataclasses.dataclass(frozen=True)
class Network:
    """layers: all with a kernel. parameters: all. images: of a batch, on each device."""

    name: str
    layers: Sequence[Layer]
    parameters: int
    images: int

    @property
    def local(self) -> list[tuple[Layer, Grid]]:
        return [(layer, layer.grid) for layer in self.layers if layer.grid]


def of_config(name: str, get_config: Callable, images: int, **model) -> Network:
    config = get_config('lc')
    config.model.update(model)
    experiment = Experiment.create(config)
    layers = cost.layers(experiment.network.model, experiment.network.image_shape)
    return Network(name, layers, experiment.network.parameters, images)


def resnet50(images: int) -> Network:
    """The network of He et al. 2016 for 1,000 classes, locally connected, without biases."""
    layers = []

    def add(name, size, kernel, stride, channels, features):
        grid = Grid.create((size, size), (kernel, kernel), stride, (kernel - 1) // 2)
        shape = (*grid.output_size, *grid.kernel_size, channels, features)
        outputs = math.prod(grid.output_size) * features
        layers.append(Layer(name, shape, grid, outputs))
        return grid.output_size[0]

    add('stem', 224, 7, 2, 3, 64)
    size, channels = 56, 64  # after the max pool
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            name, stride = f'stage{stage + 1}_block{block + 1}', 2 if stage and not block else 1
            if not block:
                add(f'{name}_shortcut', size, 1, stride, channels, 4 * width)
            add(f'{name}_conv1', size, 1, 1, channels, width)
            size = add(f'{name}_conv2', size, 3, stride, width, width)
            add(f'{name}_conv3', size, 1, 1, width, 4 * width)
            channels = 4 * width
    layers.append(Layer('logits', (channels, 1000), None, 1000))
    norms = 2 * sum(layer.kernel[-1] for layer in layers if layer.grid)
    parameters = sum(layer.parameters for layer in layers) + norms + 1000
    return Network('ResNet-50', layers, parameters, images)


def networks() -> list[Network]:
    return [
        of_config('ResNet-20', cifar10.get_config, 64),
        of_config('ResNet-18 of half width', imagenet.get_config, 32),
        of_config('ResNet-18', imagenet.get_config, 32, width=64),
        resnet50(32),
    ]


# ---- What a device has, computes and sends. ------------------------------------------------------


def share(grid: Grid, devices: int) -> float:
    """The fraction of a local layer's positions that the busiest device has."""
    return divided.per_device(grid, devices) / math.prod(grid.output_size)


def parameters_on_device(network: Network, devices: int) -> int:
    """Of divided kernels, those of the device with the most; all else is whole."""
    local = network.local
    whole = network.parameters - sum(layer.parameters for layer, _ in local)
    return whole + round(sum(layer.parameters * share(grid, devices) for layer, grid in local))


def memory(network: Network, parameters: int) -> float:
    """Bytes on a device that has this number of parameters."""
    kept = KEPT_PER_OUTPUT * network.images * sum(layer.outputs for layer in network.layers)
    return parameters * (STATE_ARRAYS * FLOAT32 + DTYPE.itemsize) + kept * DTYPE.itemsize


def sent_by_all_reduce(network: Network, devices: int) -> float:
    """Bytes that each device sends to average the gradients of whole kernels."""
    return 2 * (devices - 1) / devices * network.parameters * FLOAT32


def sent_by_all_to_all(network: Network, devices: int) -> float:
    """Bytes that each device sends of the activations of divided layers, forward and backward."""
    numbers = 0
    for layer, grid in network.local:
        pixels = divided.Routes.of(grid, devices).sent_DM.shape[1]
        inputs = pixels * layer.kernel[-2] * (1 if layer is network.layers[0] else 2)
        outputs = 2 * divided.per_device(grid, devices) * layer.kernel[-1]
        numbers += inputs + outputs
    return (devices - 1) * network.images * numbers * DTYPE.itemsize


def computing(network: Network, device: Device, devices: int, divides: bool) -> float:
    """Seconds: those of the FLOPs or, if they are more, of the bytes in memory."""
    busiest = [
        devices * share(layer.grid, devices) if divides and layer.grid else 1.0
        for layer in network.layers
    ]
    flops = sum(
        (2 if layer is network.layers[0] else 3) * layer.flops * times
        for layer, times in zip(network.layers, busiest)
    )
    parameters = parameters_on_device(network, devices) if divides else network.parameters
    moved = sum(step_bytes(parameters, network.layers, network.images).values())
    return max(network.images * flops / device.flops, moved / device.bandwidth)


def sending(device: Device, devices: int, size: float, all_to_all: bool) -> float:
    """Seconds that each device takes to send `size` bytes."""
    if not device.name.startswith('H100'):
        return size * (mean_hops(devices) if all_to_all else 1) / TORUS
    if devices <= HOST:
        return size / NVLINK
    leaving = (devices - HOST) / (devices - 1) if all_to_all else 1 / HOST
    return max(size / NVLINK, leaving * size / INFINIBAND)


def mean_hops(devices: int) -> float:
    """Between two devices of a two-dimensional torus, as square as can be, of 2^n devices."""
    rows = 2 ** (int(math.log2(devices)) // 2)
    return (rows + devices // rows) / 4


# ---- The page. -----------------------------------------------------------------------------------


def page() -> str:
    """The page in Markdown."""
    all_networks = networks()
    steps = [
        row(network, devices, divides)
        for network in all_networks
        for devices in COUNTS
        for divides in (False, True)
    ]
    sizes = [
        [
            network.name,
            f'{network.parameters / 1e6:,.0f}',
            f'{cost.step_flops(network.layers) / 1e9:.2f}',
            f'{network.parameters * STATE_ARRAYS * FLOAT32 / GIGABYTE:.2f}',
            f'{sum(layer.parameters for layer, _ in network.local) * FLOAT32 / GIGABYTE:.2f}',
        ]
        for network in all_networks
    ]
    return PAGE.format(
        accelerators='; '.join(
            f'{d.name}: {d.flops / 1e12:,.0f} TFLOP/s, {d.bandwidth / 1e9:,.0f} GB/s'
            for d in ACCELERATORS
        ),
        batches=', '.join(f'{network.images} for {network.name}' for network in all_networks),
        nvlink=f'{NVLINK / GIGABYTE:.0f}',
        host=HOST,
        infiniband=f'{INFINIBAND / GIGABYTE:.0f}',
        torus=f'{TORUS / GIGABYTE:.0f}',
        kept=KEPT_PER_OUTPUT,
        networks=table(
            [
                'network',
                'parameters, millions',
                'GFLOP an image',
                'parameters, gradients, moments, GB',
                'gathered by a sleep, GB',
            ],
            sizes,
        ),
        steps=table(
            ['network', 'devices', 'kernels', 'memory', 'sent']
            + [f'{d.name}: {what}' for d in ACCELERATORS for what in ('compute', 'send')],
            steps,
        ),
    )


def row(network: Network, devices: int, divides: bool) -> list[str]:
    """A line of the table of steps."""
    parameters = parameters_on_device(network, devices) if divides else network.parameters
    size = (sent_by_all_to_all if divides else sent_by_all_reduce)(network, devices)
    times = [
        seconds
        for device in ACCELERATORS
        for seconds in (
            computing(network, device, devices, divides),
            sending(device, devices, size, divides),
        )
    ]
    return [
        network.name,
        str(devices),
        'divided' if divides else 'whole',
        f'{memory(network, parameters) / GIGABYTE:.2f}',
        f'{size / GIGABYTE:.2f}',
        *(f'{1e3 * seconds:,.1f}' for seconds in times),
    ]
