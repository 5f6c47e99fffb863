"""Describes a network and the cost of training it, before anything is allocated.

    python -m experiments.describe --config=experiments/configs/imagenet.py:lc_hebbian

Prints parameters and FLOPs by layer, and an estimate of the memory that a training step takes on
each device. The dataset need not be there; where its images stay on the device, they come on top.
JAX_NUM_CPU_DEVICES=8 in the environment describes a run on eight devices.
"""

import jax

from experiments.common import cli, overview
from lcn_jax import native
from lcn_jax.local import default_implementation
from lcn_jax.training import cost
from lcn_jax.training.experiment import Experiment

CONFIG = cli.define_config('File with get_config(kind), a colon, and the kind.')


def main(argv):
    del argv
    print(describe(Experiment.create(CONFIG.value)))


def describe(experiment: Experiment) -> str:
    """The report of an experiment on all devices, which divide its batch among them."""
    config, devices = experiment.config, jax.device_count()
    layers = cost.layers(experiment.model, experiment.image_shape)
    memory = overview.memory(experiment)
    local = [layer.parameters for layer in layers if layer.grid]
    chosen = {
        default_implementation(layer.kernel[-layer.grid.dimensions - 2 :], config.model.dtype)
        for layer in layers
        if layer.grid
    }
    flops = cost.step_flops(layers)
    size = '×'.join(map(str, experiment.image_shape))
    return '\n'.join(
        [
            f'{config.dataset}, {overview.kind(config)}, images {size}, {config.model.dtype}',
            '',
            layer_table(layers),
            '',
            f'layer          {", ".join(sorted(chosen))}; {native.describe()}',
            f'parameters     {experiment.parameters:,}, of them {sum(local):,} in {len(local)} '
            'locally connected kernels',
            f'training step  {flops / 1e9:.3g} GFLOP for an image, '
            f'{flops * config.batch_size / 1e9:,.0f} GFLOP for the batch of {config.batch_size}',
            f'memory         about {overview.readable(sum(memory.values()))} on each of '
            f'{devices} device(s), with {config.batch_size // devices} images:',
            *(
                f'               {overview.readable(size):>12}  {purpose}'
                for purpose, size in memory.items()
                if size
            ),
        ]
    )


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
