"""Describes a network and the cost of training it, without allocating anything.

    python -m experiments.describe --config=experiments/configs/imagenet.py:lc_hebbian

Prints the parameters and FLOPs of each layer, and an estimate of the memory that a training step
takes on each device, without a dataset that stays there. The dataset need not exist.

With --devices=8 it compiles the step for eight virtual devices of this CPU, with whole and with
divided local kernels (`config.shard_kernels`), and also prints the memory that XLA plans and what
each device sends to the others in a step.
"""

import jax
from absl import flags
from ml_collections import ConfigDict

from experiments.common import cli, overview
from experiments.common.overview import readable
from experiments.measure import footprint
from lcn_jax.layer.backends import native
from lcn_jax.layer.backends.bilinear import default_implementation
from lcn_jax.training import cost
from lcn_jax.training.experiment import Experiment

CONFIG = cli.define_config(
    'A config of the project (digits, cifar10, ...) or a file with get_config(kind); a colon; the '
    'kind.'
)
DEVICES = flags.DEFINE_integer(
    'devices', None, 'Compile for this number of devices.', lower_bound=1
)


def main(argv):
    del argv
    if DEVICES.value:
        jax.config.update('jax_platforms', 'cpu')
        jax.config.update('jax_num_cpu_devices', DEVICES.value)
    print(describe(Experiment.create(CONFIG.value)))
    if DEVICES.value:
        print(footprints(CONFIG.value))


def describe(experiment: Experiment) -> str:
    """The report of an experiment on all devices, which divide the batch among them."""
    config, devices = experiment.config, jax.device_count()
    layers = cost.layers(experiment.network.model, experiment.network.image_shape)
    memory = overview.memory(experiment)
    local = [layer.parameters for layer in layers if layer.grid]
    chosen = {
        default_implementation(layer.kernel[-layer.grid.dimensions - 2 :], config.model.dtype)
        for layer in layers
        if layer.grid
    }
    flops = cost.step_flops(layers)
    size = '×'.join(map(str, experiment.network.image_shape))
    return '\n'.join(
        [
            f'{config.dataset}, {overview.kind(config)}, images {size}, {config.model.dtype}',
            '',
            layer_table(layers),
            '',
            f'layer          {", ".join(sorted(chosen))}; {native.describe()}',
            f'parameters     {experiment.network.parameters:,}, including {sum(local):,} in '
            f'{len(local)} locally connected kernels',
            f'training step  {gigas(flops)} GFLOP per image, '
            f'{gigas(flops * config.batch_size)} GFLOP for the batch of {config.batch_size}',
            f'memory         about {readable(sum(memory.values()))} on each of '
            f'{devices} device(s), with {config.batch_size // devices} images:',
            *(
                f'               {readable(size):>12}  {purpose}'
                for purpose, size in memory.items()
                if size
            ),
        ]
    )


def footprints(config: ConfigDict) -> str:
    """What XLA plans for a step on each device and what that sends, on a line for each division."""
    ways = {'whole kernels': False}
    if config.connectivity == 'lc':
        ways['divided kernels'] = True
    lines = []
    for name, divides in ways.items():
        config.shard_kernels = divides
        found = footprint.of_step(Experiment.create(config))
        sent = ', '.join(f'{readable(size)} by {name}' for name, size in found.sent.items())
        lines.append(
            f'{name:<14} {readable(found.state + found.temporary):>12}, including '
            f'{readable(found.state)} of parameters and moments; sends {sent or "nothing"}'
        )
    return '\n'.join(['compiled for each device:', *lines])


def gigas(number: float) -> str:
    """In units of 1e9, with three digits at least."""
    return f'{number / 1e9:,.0f}' if number >= 1e11 else f'{number / 1e9:.3g}'


def layer_table(layers: list[cost.Layer]) -> str:
    """A line for each layer."""
    lines = [f'{"layer":<24} {"":<6} {"kernel":<24} {"parameters":>12} {"MFLOP forward":>14}']
    for layer in layers:
        kind = 'local' if layer.grid else 'mixed' if layer.mixed else 'shared'
        kernel = '×'.join(map(str, layer.kernel))
        lines.append(
            f'{layer.name:<24} {kind:<6} {kernel:<24} {layer.parameters:>12,} '
            f'{layer.flops / 1e6:>14,.2f}'
        )
    return '\n'.join(lines)


if __name__ == '__main__':
    cli.run(main)
