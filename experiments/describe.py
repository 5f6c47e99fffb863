"""What a network is made of and what training it takes, before anything is allocated.

    python -m experiments.describe --config=experiments/configs/imagenet.py:lc_hebbian

Prints parameters and FLOPs by layer, and an estimate of the memory that a training step takes on
each device. The dataset need not be there: its images, where they live on the device, come on top.
JAX_NUM_CPU_DEVICES=8 in the environment describes a run on eight devices.
"""

import jax
from absl import flags
from ml_collections import config_flags

from experiments.common import cli, overview
from lcn_jax.training import cost, train

CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'File with get_config(kind), a colon, and the kind.', lock_config=True
)
flags.mark_flag_as_required('config')


def main(argv):
    del argv
    print(describe(CONFIG.value))


def describe(config) -> str:
    """The report of `config` on all devices, which share its batch."""
    found, devices = overview.costs(config), jax.device_count()
    local = [layer.parameters for layer in found.layers if layer.grid]
    flops = cost.step_flops(found.layers)
    size = '×'.join(map(str, train.image_shape(config)))
    return '\n'.join(
        [
            f'{config.dataset}, {overview.kind(config)}, images {size}, {config.model.dtype}',
            '',
            layer_table(found.layers),
            '',
            f'parameters     {found.parameters:,}, of them {sum(local):,} in {len(local)} locally '
            'connected kernels',
            f'training step  {flops / 1e9:.3g} GFLOP for an image, '
            f'{flops * config.batch_size / 1e9:,.0f} GFLOP for the batch of {config.batch_size}',
            f'memory         about {overview.readable(sum(found.memory.values()))} on each of '
            f'{devices} device(s), with {config.batch_size // devices} images:',
            *(
                f'               {overview.readable(size):>12}  {name}'
                for name, size in found.memory.items()
                if size
            ),
        ]
    )


def layer_table(layers: list[cost.Layer]) -> str:
    """A line for each layer."""
    lines = [f'{"layer":<24} {"":<6} {"kernel":<24} {"parameters":>12} {"MFLOP forward":>14}']
    for layer in layers:
        kind = 'local' if layer.grid else 'shared'
        kernel = '×'.join(map(str, layer.kernel))
        lines.append(
            f'{layer.name:<24} {kind:<6} {kernel:<24} {layer.parameters:>12,} '
            f'{layer.flops / 1e6:>14,.2f}'
        )
    return '\n'.join(lines)


if __name__ == '__main__':
    cli.run(main)
