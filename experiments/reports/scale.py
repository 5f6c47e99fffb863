"""What a training step costs on many accelerators, with whole and with divided kernels."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from experiments.configs import cifar10, imagenet
from experiments.reports.roofline import DEVICES as ACCELERATORS
from experiments.reports.roofline import DTYPE, FLOAT32, Device, step_bytes
from experiments.reports.style import table
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

What a training step of a locally connected network costs on many devices, if every device has whole
kernels and if the devices divide the kernels (`config.shard_kernels`). The tables were computed
from shapes, not measured, by

```
python -m experiments.scale --out=docs/scale.md
```

[The page of results](../experiments/results/README.md#networks-larger-than-a-device) says what
follows from them, and compares them with what XLA plans for eight devices of a CPU.

## How kernels are divided

The weights of a position are used by no other position. So each device keeps the kernels of its own
positions, with their gradients and moments, and computes these positions for the images of *all*
devices. It receives the activations that its positions see, and sends what it computes back to the
devices of the images ([`lcn_jax/layer/backends/divided.py`](../lcn_jax/layer/backends/divided.py)).
Weights never move, and gradients need no sum over devices. The positions of a layer are numbered
row by row and divided in equal parts, so any number of devices can share any layer. Eight devices
can even divide the 7×7 positions of the last stage of a ResNet: seven of them get 7 positions each,
the last one none. The alternative would be strips of rows that stay on a device from layer to layer
and exchange only their halos. This sends less, but 7 rows cannot be divided among 8 devices.
Everything else, including BatchNorm and the readout, is computed for the images of the device as
before, so the rest of the program does not change. A sleep gathers one kernel at a time.

## Assumptions

- {accelerators}. The products of a step take the time of their FLOPs at this rate, or the time of
  the bytes in memory if that is longer, as on the [page of the roofline](roofline.md).
- The number of images on a device does not depend on the number of devices (weak scaling):
  {batches}. Activations travel in bfloat16, gradients of whole kernels in float32.
- An H100 sends {nvlink} GB/s to the other devices of its host of {host}, and at the same time
  {infiniband} GB/s to other hosts. An all-reduce sends an eighth of its bytes to other hosts, an
  all-to-all everything but the bytes for its own host. A TPU v5e sends {torus} GB/s over its four
  links. In an all-to-all on a two-dimensional torus, every byte crosses as many links as there are
  hops between two devices on average. (A v5e pod has 256 devices; one with 512 does not exist.)
- Whole kernels: an all-reduce of all gradients sends 2 (N − 1) / N of their bytes.
- Divided kernels: one all-to-all sends the pixels that the positions of a device see, of all
  images, and another one returns the outputs. Both are repeated backward, except that images need
  no gradient.
- Communication does not overlap with computation.
- Memory: parameters, gradients and moments in float32, {kept} bfloat16 arrays for each output of a
  layer, and the bfloat16 copy of the parameters.
- ResNet-50 has bottleneck blocks with the stride in the 3×3 convolution. This project has no such
  network, so the script lists its layers.

## Networks

{networks}

## A step

The memory in GB on a device, what a device sends in a step in GB, and the milliseconds for
computation and for communication.

{steps}
"""


@dataclasses.dataclass(frozen=True)
class Network:
    """layers: all that have a kernel. parameters: of the network. images: on each device."""

    name: str
    layers: Sequence[Layer]
    parameters: int
    images: int

    @property
    def local(self) -> list[tuple[Layer, Grid]]:
        return [(layer, layer.grid) for layer in self.layers if layer.grid]


def from_config(name: str, get_config: Callable, images: int, **model) -> Network:
    config = get_config('lc')
    config.model.update(model)
    experiment = Experiment.create(config)
    layers = cost.layers(experiment.network.model, experiment.network.image_shape)
    return Network(name, layers, experiment.network.parameters, images)


def resnet50(images: int) -> Network:
    """The network of He et al. (2016) for 1,000 classes, but locally connected, without biases."""
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
        from_config('ResNet-20', cifar10.get_config, 64),
        from_config('ResNet-18 of half width', imagenet.get_config, 32),
        from_config('ResNet-18', imagenet.get_config, 32, width=64),
        resnet50(32),
    ]


# ---- What a device keeps, computes and sends. ----------------------------------------------------


def share(grid: Grid, devices: int) -> float:
    """The fraction of a local layer's positions that the busiest device has."""
    return divided.positions_per_device(grid, devices) / math.prod(grid.output_size)


def parameters_on_device(network: Network, devices: int) -> int:
    """The number on the device with the largest part of the kernels; all else is whole."""
    local = network.local
    whole = network.parameters - sum(layer.parameters for layer, _ in local)
    return whole + round(sum(layer.parameters * share(grid, devices) for layer, grid in local))


def memory(network: Network, parameters: int) -> float:
    """Bytes on a device with this number of parameters."""
    kept = KEPT_PER_OUTPUT * network.images * sum(layer.outputs for layer in network.layers)
    return parameters * (STATE_ARRAYS * FLOAT32 + DTYPE.itemsize) + kept * DTYPE.itemsize


def sent_by_all_reduce(network: Network, devices: int) -> float:
    """Bytes that each device sends to average the gradients of whole kernels."""
    return 2 * (devices - 1) / devices * network.parameters * FLOAT32


def sent_by_all_to_all(network: Network, devices: int) -> float:
    """Bytes of activations that each device sends for divided layers, forward and backward."""
    numbers = 0
    for layer, grid in network.local:
        pixels = divided.Routes.of(grid, devices).sent_DM.shape[1]
        inputs = pixels * layer.kernel[-2] * (1 if layer is network.layers[0] else 2)
        outputs = 2 * divided.positions_per_device(grid, devices) * layer.kernel[-1]
        numbers += inputs + outputs
    return (devices - 1) * network.images * numbers * DTYPE.itemsize


def computing(network: Network, device: Device, devices: int, divides: bool) -> float:
    """Seconds for the FLOPs or for the bytes in memory, whichever is longer."""
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
    """Between two of 2^n devices, on a two-dimensional torus that is as square as possible."""
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
