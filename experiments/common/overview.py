"""What a run is going to do, before it allocates anything."""

import os

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from lcn_jax.data.sources import Source
from lcn_jax.files import locate
from lcn_jax.layer.backends import native
from lcn_jax.training import checkpoint, cost, optimizer, parallel, sharding, start
from lcn_jax.training.experiment import Experiment


def summary(experiment: Experiment, workdir: str) -> str:
    """Network, data, training, devices and workdir of a run, on a line each.

    One more line says why a CPU computes local layers without the native kernel, if it does.

    Raises:
      UsageError: the devices cannot divide the batch.
    """
    config = experiment.config
    beside = ', and the images' if Source(config.dataset, config.data_dir).spec.fits else ''
    return '\n'.join(
        [
            f'network   {kind(config)}; {experiment.network.parameters:,} parameters',
            f'data      {config.dataset} in {os.path.expanduser(config.data_dir)}, '
            f'{"×".join(map(str, experiment.network.image_shape))}',
            f'training  {config.epochs} epochs, {config.batch_size} images a step, '
            f'{config.model.dtype}',
            f'devices   {jax.device_count()} × {jax.devices()[0].device_kind}; on each about '
            f'{readable(sum(memory(experiment).values()))}{beside}',
            *_slow_layers(experiment),
            *_start(experiment, workdir),
        ]
    )


def _slow_layers(experiment: Experiment) -> list[str]:
    on_cpu = jax.default_backend() == 'cpu'
    if on_cpu and experiment.network.grids and not native.available():
        return [f'layers    slow: {native.describe()}']
    return []


def _start(experiment: Experiment, workdir: str) -> list[str]:
    """Where a run begins: from the start, with the weights of another run, or where it stopped."""
    config, step = experiment.config, checkpoint.latest_step(workdir)
    if step is None:
        lines = [f'workdir   {workdir}, from the start']
        if config.init_from:
            taken, fresh = start.inherited(experiment)
            lines.append(
                f'weights   of {config.init_from}: {", ".join(taken)}; fresh: '
                f'{", ".join(fresh) or "none"}'
            )
        return lines
    lines = [f'workdir   {workdir}, continues from step {step}']
    known = (locate(workdir) / 'config.json').exists()
    epochs = checkpoint.read_config(workdir).epochs if known else config.epochs
    if epochs < config.epochs:
        total = experiment.schedule.total_steps
        before, after = (
            np.asarray(optimizer.learning_rate(config, steps)(step - 1))
            for steps in (total // config.epochs * epochs, total)
        )
        lines.append(
            f'rate      {epochs} epochs ended with {before:g}; it goes on with {after:g}, as '
            f'{config.epochs} epochs have it there'
        )
    return lines


def memory(experiment: Experiment) -> dict[str, int]:
    """Bytes on a device in a training step, by purpose, without a dataset that stays there.

    Raises:
      UsageError: the devices cannot divide the batch.
    """
    config = experiment.config
    parallel.check_batch_size(config.batch_size)
    on_device = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[len(parallel.leading_axes()) :], leaf.dtype),
        sharding.shapes(experiment.shapes, experiment.owners),
    )
    return cost.memory(
        on_device,
        cost.layers(experiment.network.model, experiment.network.image_shape),
        config.batch_size // jax.device_count(),
        jnp.dtype(config.model.dtype),
    )


def kind(config: ml_collections.ConfigDict) -> str:
    """The kind of network in words: connectivity, translations, sleep."""
    translations, sleep = config.translations, config.sleep
    connectivities = {
        'conv': 'convolutional',
        'lc': 'locally connected',
        'low_rank': f'low-rank local connectivity, rank {config.model.rank}',
    }
    parts = [connectivities[config.connectivity]]
    if translations.repetitions > 1:
        parts.append(f'{translations.repetitions} translations')
    if sleep.rule != 'none':
        parts.append(f'sleep by {sleep.rule} every {sleep.every} steps')
    return ', '.join(parts)


def short_kind(config: ml_collections.ConfigDict) -> str:
    """Connectivity and sleep, as in the names of kinds: 'conv', 'lc_mean'."""
    rule = config.sleep.rule
    return config.connectivity if rule == 'none' else f'{config.connectivity}_{rule}'


def readable(size: float) -> str:
    """A number of bytes in GiB, or in MiB below one GiB."""
    return f'{size / 2**30:.2f} GiB' if size >= 2**30 else f'{size / 2**20:.1f} MiB'
