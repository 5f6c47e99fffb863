"""`train_and_evaluate`: config -> data -> model -> wake and sleep steps -> metrics."""

import dataclasses
import functools
import os
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from lcn_jax import sleep
from lcn_jax.data import batches, sources
from lcn_jax.errors import Diverged, Stopped, UsageError
from lcn_jax.resnet import ResNet
from lcn_jax.training import config as configs
from lcn_jax.training import faults, inputs, metrics, parallel, state, wake

LONGEST_STRETCH = 10  # steps between looks at whether to stop


def make_model(config: ml_collections.ConfigDict) -> ResNet:
    """The network `config` asks for, without parameters."""
    return ResNet(
        stage_sizes=tuple(config.model.stage_sizes),
        width=config.model.width,
        stem=config.model.stem,
        num_classes=sources.spec(config.dataset).num_classes,
        local=config.connectivity == 'lc',
        n_first_conv=config.model.n_first_conv,
        shared=config.model.shared,
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
    shapes: state.TrainState  # of one replica
    create: Callable  # key -> state
    wake: Callable  # state, Sums, pixels, order, key, steps -> state, Sums
    evaluate: Callable  # state, pixels -> Sums
    sleep: Callable | None  # state, key -> state
    snr: Callable  # state -> {layer: SNR}
    is_finite: Callable  # state -> bool


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
    shapes = jax.eval_shape(create, jax.random.key(0))
    if config.connectivity == 'lc':
        _check_connectivity(config.model, shapes.params, grids)
    sleep_program = None
    if config.sleep.rule != 'none':
        options = config.sleep.get(config.sleep.rule.rpartition(':')[2], {})
        rule = sleep.resolve(config.sleep.rule, {'border': config.sleep.border, **options})
        sleep_program = parallel.per_device(
            functools.partial(
                sleep.sleep, grids=grids, rule=rule, share_moments=config.sleep.share_moments
            ),
            (0, None),
            donate=[0],
        )
        _check_sleep(sleep_program, shapes)
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
        parameters=sum(p.size for p in jax.tree.leaves(shapes.params)),
        shapes=shapes,
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
        is_finite=parallel.per_device(wake.is_finite, [0]),
    )


def _check_connectivity(model_config, params, grids) -> None:
    """UsageError if no layer is locally connected, or a pattern of names matches none."""
    if not grids:
        raise UsageError(
            'no convolution is left to be locally connected: lower config.model.n_first_conv, '
            'change config.model.shared, or set config.connectivity=conv.'
        )
    convolutions = [
        name for name, layer in params.items() if jnp.ndim(layer.get('kernel', 0)) in (4, 6)
    ]
    if model_config.shared and not any(
        re.fullmatch(model_config.shared, name) for name in convolutions
    ):
        raise UsageError(
            f'config.model.shared={model_config.shared} is the whole name of none of the '
            f'convolutions {", ".join(convolutions)}.'
        )


def _check_sleep(sleep_program: Callable, shapes: state.TrainState) -> None:
    """UsageError if a sleep cannot run: rather now than after the first steps of training."""
    devices = jax.local_device_count()
    replicated = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((devices, *leaf.shape), leaf.dtype), shapes
    )
    try:
        jax.eval_shape(sleep_program, replicated, jax.random.key(0))
    except UsageError:
        raise
    except (TypeError, ValueError) as e:
        reason = str(e).partition('\n')[0]
        raise UsageError(f'the sleep that config.sleep asks for cannot run: {reason}') from e


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


def setup(config: ml_collections.ConfigDict) -> tuple[inputs.Input, Programs]:
    """The images and the compiled programs of an experiment.

    Raises:
      UsageError: the config asks for something that cannot be, or the data is not there.
    """
    configs.check(config)
    parallel.check_batch_size(config.batch_size)
    images = inputs.make(config, keys(config)[1])
    seedless = ConfigDict(config.to_dict())
    seedless.seed = 0
    run = programs(FrozenConfigDict(seedless), images.examples)
    if run.steps_per_epoch == 0:
        raise UsageError(
            f'config.batch_size {config.batch_size} is larger than the {images.examples} training '
            'images.'
        )
    return images, run


def keys(config: ml_collections.ConfigDict) -> jax.Array:
    """(3,): for the initialisation, the data, and sleep."""
    return jax.random.split(jax.random.key(config.seed), 3)


def evaluated_split(config: ml_collections.ConfigDict) -> str:
    """What names of evaluated metrics begin with: 'validation' or 'test'."""
    return 'validation' if config.validation else 'test'


def evaluate(
    run: Programs, train_state: state.TrainState, images: inputs.Input, split: str
) -> dict[str, float]:
    """Metrics of the images kept for it, under names that begin with `split`."""
    sums = metrics.Sums.zero()
    for pixels in images.evaluate():
        sums += parallel.first(run.evaluate(train_state, pixels))
    return {f'{split}_{name}': value for name, value in sums.means().items()}


def train_and_evaluate(
    config: ml_collections.ConfigDict, workdir: str, report: metrics.Report = lambda record: None
) -> dict[str, Any]:
    """Trains as `config` says, from where `workdir` has got to.

    `workdir` gets config.json, checkpoints and metrics.jsonl, one record a line. Records are
    written every `config.log_every` steps and at the end of every epoch, and given to `report`,
    together with 'total_steps', 'batch_size' and 'resumed_at', the step this call started from; a
    run that resumes gives it the earlier ones again. Metrics of training are means since the last
    record. `weight_snr` is the mean over layers at the end of the step; if that step ended in a
    sleep, `weight_snr_before_sleep` is what it was before. 'seconds' are those of training, in all.

    A run that resumes computes what it would have computed had it never stopped, bit for bit.

    Returns:
      The last record, with the number of 'parameters'.

    Raises:
      UsageError: the config asks for something that cannot be, the data is not there, the workdir
        belongs to another config or cannot be written, or the loss is not finite.
      Stopped: SIGTERM or Ctrl-C came, and everything is saved.
    """
    from lcn_jax import checkpoint  # orbax is needed from here on, not by the steps

    images, run = setup(config)
    init_key, data_key, sleep_key = keys(config)
    split = evaluated_split(config)
    every = config.checkpoint_every or run.total_steps
    evaluate_every = run.steps_per_epoch * config.evaluate_every
    with checkpoint.Checkpoints(workdir) as checkpoints, faults.StopRequests() as requests:
        checkpoint.claim(workdir, config)
        now = checkpoints.latest(run.shapes) or checkpoint.Snapshot.start(
            parallel.first(run.create(parallel.replicate(init_key)))
        )
        step = int(now.state.step)
        whole = {
            'total_steps': run.total_steps,
            'batch_size': config.batch_size,
            'resumed_at': step,
        }
        sinks = [lambda record: report(record | whole)]
        if config.tensorboard and jax.process_index() == 0:
            sinks.append(metrics.tensorboard(os.path.join(workdir, 'tensorboard')))
        log = metrics.Log(os.path.join(workdir, 'metrics.jsonl'), step, sinks)
        best, started = now.best, time.perf_counter() - now.seconds
        train_state, sums = parallel.replicate((now.state, now.sums))

        while step < run.total_steps:
            stop = min(
                step + LONGEST_STRETCH,
                _next_multiple(step, run.steps_per_epoch),
                _next_multiple(step, config.log_every),
                _next_multiple(step, every),
                _next_multiple(step, config.sleep.every) if run.sleep else run.total_steps,
            )
            for pixels, order, steps in images.train(step, stop):
                train_state, sums = run.wake(train_state, sums, pixels, order, data_key, steps)
            jax.block_until_ready(sums)  # else the host is far ahead, and a stop waits for it all
            step = stop

            stopping = requests.heard()
            epoch_ends = step % run.steps_per_epoch == 0
            evaluates = step % evaluate_every == 0 or step == run.total_steps
            logs = step % config.log_every == 0 or epoch_ends
            saves = stopping or step % every == 0 or step == run.total_steps
            record = {'step': step, 'epoch': step / run.steps_per_epoch}
            if run.sleep and step % config.sleep.every == 0:
                if logs:
                    record['weight_snr_before_sleep'] = _mean_snr(run, train_state)
                train_state = run.sleep(train_state, sleep_key)
            if logs or saves:
                trained = parallel.first(sums)
                record |= {f'train_{name}': value for name, value in trained.means().items()}
                if not (np.isfinite(trained.loss) and parallel.first(run.is_finite(train_state))):
                    raise _diverged(record, trained, log, run, config)
            accuracy = checkpoint.NOT_EVALUATED
            if logs:
                record['weight_snr'] = _mean_snr(run, train_state)
                sums = parallel.replicate(metrics.Sums.zero())
                if evaluates:
                    record |= evaluate(run, train_state, images, split)
                    accuracy = record[f'{split}_top1']
                    saves |= config.checkpoint_every > 0 and accuracy > best
                    best = max(accuracy, best)
                record['seconds'] = time.perf_counter() - started
                log.add(record)
            if saves:
                seconds = time.perf_counter() - started
                now = checkpoint.Snapshot(*parallel.first((train_state, sums)), best, seconds)
                checkpoints.save(step, now, accuracy)
            if stopping and step < run.total_steps:
                break
    if step < run.total_steps:
        raise Stopped(
            f'stopped at step {step} of {run.total_steps}; the same command goes on from there.'
        )
    return log.last | {'parameters': run.parameters}


def _next_multiple(step: int, every: int) -> int:
    return (step // every + 1) * every


def _mean_snr(run: Programs, train_state: state.TrainState) -> float | None:
    """Mean over layers; None for a network without locally connected layers."""
    snrs = parallel.first(run.snr(train_state))
    return float(sum(snrs.values()) / len(snrs)) if snrs else None


def _diverged(record, sums, log, run, config) -> Diverged:
    """Logs what the loss came to since the last record, and says at which step."""
    step = log.last.get('step', 0) + round(sums.count / config.batch_size)
    log.add(record | {'step': step, 'epoch': step / run.steps_per_epoch})
    return Diverged(
        f'training diverged: at step {step} the loss or a parameter is not finite; checkpoints are '
        'from before. Start again in another workdir, with a lower config.learning_rate.'
    )
