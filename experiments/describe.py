"""What a network is made of and what training it takes, before anything is allocated.

    python -m experiments.describe --config=experiments/configs/imagenet.py:lc_hebbian

Prints parameters and FLOPs by layer, and an estimate of the memory that a training step takes on
each device. The dataset need not be there: its images, where they live on the device, come on top.
JAX_NUM_CPU_DEVICES=8 in the environment describes a run on eight devices.
"""

import functools

import jax
import jax.numpy as jnp
from absl import flags
from ml_collections import config_flags

from experiments import cli
from lcn_jax import config as configs
from lcn_jax import cost, parallel, state, train, wake

CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'File with get_config(kind), a colon, and the kind.', lock_config=True
)
flags.mark_flag_as_required('config')


def main(argv):
    del argv
    config = CONFIG.value
    configs.check(config)
    parallel.check_batch_size(config.batch_size)
    print(describe(config, jax.device_count()))


def describe(config, devices: int) -> str:
    """The report of `config` on so many devices, which share its batch."""
    model, image_shape = train.make_model(config), train.image_shape(config)
    optimizer = wake.optimizer(config, total_steps=1)
    shapes = jax.eval_shape(
        functools.partial(state.create, model=model, optimizer=optimizer, image_shape=image_shape),
        jax.random.key(0),
    )
    layers = cost.layers(model, image_shape)
    images = config.batch_size // devices
    memory = cost.memory(shapes, layers, images, jnp.dtype(config.model.dtype))
    total = sum(p.size for p in jax.tree.leaves(shapes.params))
    local = [layer.parameters for layer in layers if layer.grid]
    flops = cost.step_flops(layers)
    size = '×'.join(map(str, image_shape))
    return '\n'.join(
        [
            f'{config.dataset}, {config.connectivity}, images {size}, {config.model.dtype}',
            '',
            layer_table(layers),
            '',
            f'parameters     {total:,}, of them {sum(local):,} in {len(local)} locally connected '
            'kernels',
            f'training step  {flops / 1e9:.3g} GFLOP for an image, '
            f'{flops * config.batch_size / 1e9:,.0f} GFLOP for the batch of {config.batch_size}',
            f'memory         about {gib(sum(memory.values()))} on each of {devices} device(s), '
            f'with {images} images:',
            *(f'               {gib(size):>12}  {name}' for name, size in memory.items() if size),
        ]
    )


def layer_table(layers: list[cost.Layer]) -> str:
    lines = [f'{"layer":<24} {"":<6} {"kernel":<24} {"parameters":>12} {"MFLOP forward":>14}']
    for layer in layers:
        kind = 'local' if layer.grid else 'shared'
        kernel = '×'.join(map(str, layer.kernel))
        lines.append(
            f'{layer.name:<24} {kind:<6} {kernel:<24} {layer.parameters:>12,} '
            f'{layer.flops / 1e6:>14,.2f}'
        )
    return '\n'.join(lines)


def gib(size: int) -> str:
    return f'{size / 2**30:.2f} GiB'


if __name__ == '__main__':
    cli.run(main)
