"""What will run, in words, before anything is allocated."""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import ml_collections

from lcn_jax.data import sources
from lcn_jax.training import checkpoint, cost, parallel, state, train, wake
from lcn_jax.training import config as configs


@dataclasses.dataclass(frozen=True)
class Costs:
    """layers: of the network. parameters: of all. memory: bytes of a training step on a device, by
    what they are for, without the images that may live there.
    """

    layers: list[cost.Layer]
    parameters: int
    memory: dict[str, int]


def costs(config: ml_collections.ConfigDict) -> Costs:
    """Of training as `config` says, on all devices.

    Raises:
      UsageError: the config asks for something that cannot be.
    """
    configs.check(config)
    parallel.check_batch_size(config.batch_size)
    model, image_shape = train.make_model(config), train.image_shape(config)
    optimizer = wake.optimizer(config, total_steps=1)  # only its shapes matter
    shapes = jax.eval_shape(
        functools.partial(state.create, model=model, optimizer=optimizer, image_shape=image_shape),
        jax.random.key(0),
    )
    layers = cost.layers(model, image_shape)
    images = config.batch_size // jax.device_count()
    return Costs(
        layers=layers,
        parameters=sum(p.size for p in jax.tree.leaves(shapes.params)),
        memory=cost.memory(shapes, layers, images, jnp.dtype(config.model.dtype)),
    )


def of_run(config: ml_collections.ConfigDict, workdir: str) -> str:
    """What `train_and_evaluate` is going to do, for a person who waits for it.

    Raises:
      UsageError: as `costs`.
    """
    found = costs(config)
    size = '×'.join(map(str, train.image_shape(config)))
    beside = ', and the images' if sources.spec(config.dataset).fits else ''
    step = checkpoint.latest_step(workdir)
    start = 'from the start' if step is None else f'goes on from step {step}'
    return '\n'.join(
        [
            f'network   {kind(config)}; {found.parameters:,} parameters',
            f'data      {config.dataset} in {os.path.expanduser(config.data_dir)}, {size}',
            f'training  {config.epochs} epochs, {config.batch_size} images a step, '
            f'{config.model.dtype}',
            f'devices   {jax.device_count()} × {jax.devices()[0].device_kind}; on each about '
            f'{readable(sum(found.memory.values()))}{beside}',
            f'workdir   {workdir}, {start}',
        ]
    )


def kind(config: ml_collections.ConfigDict) -> str:
    """The point on the three axes: connectivity, translations, sleep."""
    translations, sleep = config.translations, config.sleep
    return ', '.join(
        [
            'locally connected' if config.connectivity == 'lc' else 'convolutional',
            *[f'{translations.repetitions} translations'] * (translations.repetitions > 1),
            *[f'sleep by {sleep.rule} every {sleep.every} steps'] * (sleep.rule != 'none'),
        ]
    )


def readable(size: int) -> str:
    """Bytes as GiB, or MiB if that is less than one."""
    return f'{size / 2**30:.2f} GiB' if size >= 2**30 else f'{size / 2**20:.1f} MiB'
