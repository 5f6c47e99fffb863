"""`train_and_evaluate`: config -> data -> model -> wake and sleep steps -> metrics."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from ml_collections import ConfigDict, FrozenConfigDict

from lcn_jax import config as configs
from lcn_jax import metrics, parallel, sleep, state, wake
from lcn_jax.data import batches, inputs, sources
from lcn_jax.errors import UsageError
from lcn_jax.resnet import ResNet

Report = Callable[[Mapping[str, Any]], None]


def make_model(config: ml_collections.ConfigDict) -> ResNet:
    return ResNet(
        stage_sizes=tuple(config.model.stage_sizes),
        width=config.model.width,
        stem=config.model.stem,
        num_classes=sources.spec(config.dataset).num_classes,
        local=config.connectivity == 'lc',
        n_first_conv=config.model.n_first_conv,
        dtype=jnp.dtype(config.model.dtype),
        batch_axis=parallel.AXIS if config.model.sync_batch_norm else None,
    )


def image_shape(config: ml_collections.ConfigDict) -> tuple[int, int, int]:
    """(H, W, C) of what the network sees."""
    channels = sources.spec(config.dataset).image_shape[2]
    return config.image_size, config.image_size, channels


@dataclasses.dataclass(frozen=True)
class Programs:
    """The compiled programs of an experiment, each run on all devices."""

    steps_per_epoch: int
    total_steps: int
    parameters: int
    create: Callable  # key -> state
    wake: Callable  # state, Sums, pixels, order, key, steps -> state, Sums
    evaluate: Callable  # state, pixels -> Sums
    sleep: Callable | None  # state, key -> state
    snr: Callable  # state -> {layer: SNR}


@functools.lru_cache(maxsize=8)
def programs(config: FrozenConfigDict, examples: int) -> Programs:
    """What runs that differ only in their seed share: give them the same seed here."""
    model = make_model(config)
    shape = image_shape(config)
    translations = config.translations
    steps_per_epoch = batches.steps_per_epoch(examples, config.batch_size, translations.repetitions)
    total_steps = steps_per_epoch * config.epochs
    optimizer = wake.optimizer(config, total_steps)
    grids = state.grids(model, shape)
    create = functools.partial(state.create, model=model, optimizer=optimizer, image_shape=shape)
    size = jax.eval_shape(create, jax.random.key(0)).params
    sleep_program = None
    if config.sleep.rule != 'none':
        options = config.sleep.get(config.sleep.rule, {})
        rule = sleep.resolve(config.sleep.rule, {'border': config.sleep.border, **options})
        sleep_program = parallel.per_device(
            functools.partial(
                sleep.sleep, grids=grids, rule=rule, share_moments=config.sleep.share_moments
            ),
            (0, None),
            donate=[0],
        )
    step = functools.partial(
        wake.step,
        model=model,
        optimizer=optimizer,
        batch=dict(
            batch_size=config.batch_size,
            size=config.image_size,
            padding=translations.padding,
            repetitions=translations.repetitions,
            flips=config.flip,
        ),
    )
    return Programs(
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        parameters=sum(p.size for p in jax.tree.leaves(size)),
        create=parallel.per_device(create, [0]),
        wake=_stretches(step),
        evaluate=parallel.per_device(
            functools.partial(
                wake.evaluate,
                model=model,
                batch_size=config.batch_size // jax.device_count(),
                size=config.image_size,
            ),
            (0, 0),
        ),
        sleep=sleep_program,
        snr=parallel.per_device(
            lambda s: metrics.layer_snrs(s.params, grids, config.sleep.border), [0]
        ),
    )


def _stretches(step: Callable) -> Callable:
    """`wake.stretch` of `step`; on CPU the host loops.

    There XLA computes a convolution's gradients many times slower in a loop (jax issue 12868), and
    a dispatch costs next to nothing.
    """
    if jax.default_backend() != 'cpu':
        stretch = functools.partial(wake.stretch, step=step)
        return parallel.per_device(stretch, (0, 0, 0, 0, None, None), donate=[0, 1])
    one = parallel.per_device(step, (0, 0, 0, 0, None), donate=[0, 1])

    def stretch(train_state, sums, pixels, order, key, steps):
        for _ in range(steps):
            train_state, sums = one(train_state, sums, pixels, order, key)
        return train_state, sums

    return stretch


def train_and_evaluate(
    config: ml_collections.ConfigDict, workdir: str, report: Report = lambda record: None
) -> dict[str, Any]:
    """Trains as `config` says and writes `workdir/metrics.jsonl`, one record a line.

    Records are written every `config.log_every` steps and at the end of every epoch, and given to
    `report`, with 'step' and 'total_steps'. Metrics of training are means since the last record.
    `weight_snr` is the mean over layers at the end of the step; if that step ended in a sleep,
    `weight_snr_before_sleep` is what it was before.

    Returns:
      The last record, with the number of 'parameters' and 'seconds' of training.

    Raises:
      UsageError: the config asks for something that cannot be, or the data is not there.
    """
    configs.check(config)
    parallel.check_batch_size(config.batch_size)
    init_key, data_key, sleep_key = jax.random.split(jax.random.key(config.seed), 3)
    images = inputs.make(config, data_key)
    seedless = ConfigDict(config.to_dict())
    seedless.seed = 0
    run = programs(FrozenConfigDict(seedless), images.examples)
    if run.steps_per_epoch == 0:
        raise UsageError(
            f'config.batch_size {config.batch_size} is larger than the {images.examples} training '
            'images.'
        )
    train_state = run.create(parallel.replicate(init_key))
    os.makedirs(workdir, exist_ok=True)

    evaluated = 'validation' if config.validation else 'test'
    started = time.perf_counter()
    sums = parallel.replicate(metrics.Sums.zero())
    record = {}
    step = 0
    while step < run.total_steps:
        stop = min(
            _next_multiple(step, run.steps_per_epoch),
            _next_multiple(step, config.log_every),
            _next_multiple(step, config.sleep.every) if run.sleep else run.total_steps,
        )
        for pixels, order, steps in images.train(step, stop):
            train_state, sums = run.wake(train_state, sums, pixels, order, data_key, steps)
        step = stop

        epoch_ends = step % run.steps_per_epoch == 0
        logs = step % config.log_every == 0 or epoch_ends
        record = {'step': step, 'epoch': step / run.steps_per_epoch}
        if run.sleep and step % config.sleep.every == 0:
            if logs:
                record['weight_snr_before_sleep'] = _mean_snr(run, train_state)
            train_state = run.sleep(train_state, sleep_key)
        if logs:
            record['weight_snr'] = _mean_snr(run, train_state)
            record |= {f'train_{k}': v for k, v in parallel.first(sums).means().items()}
            sums = parallel.replicate(metrics.Sums.zero())
            if epoch_ends:
                tested = metrics.Sums.zero()
                for pixels in images.evaluate():
                    tested += parallel.first(run.evaluate(train_state, pixels))
                record |= {f'{evaluated}_{k}': v for k, v in tested.means().items()}
            record['seconds'] = time.perf_counter() - started
            metrics.append(os.path.join(workdir, 'metrics.jsonl'), record)
            report(record | {'total_steps': run.total_steps})
    return record | {'parameters': run.parameters}


def _next_multiple(step: int, every: int) -> int:
    return (step // every + 1) * every


def _mean_snr(run: Programs, train_state: state.TrainState) -> float | None:
    """Mean over layers; None for a network without locally connected layers."""
    snrs = parallel.first(run.snr(train_state))
    return float(sum(snrs.values()) / len(snrs)) if snrs else None
