"""`train_and_evaluate`: config -> experiment, images -> wake, sleep -> records, checkpoints."""

import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lcn_jax.data import shards
from lcn_jax.errors import Diverged, Stopped, UsageError
from lcn_jax.files import locate
from lcn_jax.training import config as configs
from lcn_jax.training import faults, inputs, metrics, parallel
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.metrics import Record, Report, Sums
from lcn_jax.training.schedule import Schedule
from lcn_jax.training.state import TrainState


def train_and_evaluate(
    config: ConfigDict,
    workdir: str,
    report: Report = lambda record: None,
    experiment: Experiment | None = None,
) -> dict[str, Any]:
    """Trains as `config` says, from where `workdir` has got to; returns the last record.

    `experiment` is that of the config, of any seed; `open_log` describes the records. A run that
    resumes computes, bit for bit, what it would have computed without the interruption.

    Raises:
      UsageError: something is wrong with the config, the data or the workdir, or training diverged.
      Stopped: SIGTERM or Ctrl-C came, and everything is saved.
    """
    from lcn_jax.training.checkpoint import NOT_EVALUATED, Checkpoints, Snapshot, claim  # orbax

    experiment = experiment or Experiment.create(config)
    assert experiment.config == configs.without_seed(config)
    init_key, data_key, sleep_key = keys(config.seed)
    images = inputs.make(config, data_key)
    schedule = make_schedule(config, images.examples)
    wake, sleep = experiment.wake(schedule.total_steps), schedule.sleep_every and experiment.sleep
    with Checkpoints(workdir) as checkpoints, faults.StopRequests() as requests:
        claim(workdir, config)
        now = checkpoints.latest(experiment.shapes) or Snapshot.start(
            parallel.first(experiment.init(parallel.replicate(init_key)))
        )
        step, best, started = int(now.state.step), now.best, time.perf_counter() - now.seconds
        log = open_log(config, workdir, schedule, step, report)
        train_state, sums = parallel.replicate((now.state, now.sums))

        while step < schedule.total_steps:
            first, step = step, schedule.next_stop(step)
            for pixels, order, steps in images.train(first, step):
                train_state, sums = wake(train_state, sums, pixels, order, data_key, steps)
            jax.block_until_ready(sums)  # or the host runs ahead, and a stop waits for all of it
            due, stopping = schedule.events(step), requests.heard()
            record = {'step': step, 'epoch': step / schedule.steps_per_epoch}
            if due.sleep:
                if due.log:
                    record['weight_snr_before_sleep'] = mean_snr(experiment, train_state)
                train_state = sleep(train_state, sleep_key)
            if due.log or due.save or stopping:
                trained = parallel.first(sums)
                record |= {f'train_{name}': value for name, value in trained.means().items()}
                check_finite(experiment, train_state, trained, record, schedule, log)
            if due.log:
                record['weight_snr'] = mean_snr(experiment, train_state)
                if due.evaluate:
                    record |= evaluate(experiment, train_state, images)
                sums = parallel.replicate(Sums.zero())
                log.add(record | {'seconds': time.perf_counter() - started})
            accuracy = record.get(f'{evaluated_split(config)}_top1', NOT_EVALUATED)
            improved, best = accuracy > best, max(accuracy, best)
            if due.save or stopping or (improved and config.checkpoint_every):
                seconds = time.perf_counter() - started
                now = Snapshot(*parallel.first((train_state, sums)), best, seconds)
                checkpoints.save(step, now, accuracy)
            if stopping:
                break
    if step < schedule.total_steps:
        raise Stopped(
            f'stopped at step {step} of {schedule.total_steps}; the same command continues from '
            'there.'
        )
    return {**log.last, 'parameters': experiment.parameters}


def keys(seed: int) -> jax.Array:
    """(3,): the keys of the initialisation, of the data, and of sleep."""
    return jax.random.split(jax.random.key(seed), 3)


def make_schedule(config: ConfigDict, examples: int) -> Schedule:
    """The schedule of a training on this many images.

    Raises:
      UsageError: the devices cannot divide a batch, or a batch has more images than there are.
    """
    parallel.check_batch_size(config.batch_size)
    repetitions = config.translations.repetitions
    steps_per_epoch = shards.steps_per_epoch(examples, config.batch_size, repetitions)
    if steps_per_epoch == 0:
        raise UsageError(
            f'config.batch_size {config.batch_size} is larger than the {examples} training images.'
        )
    return Schedule.of(config, steps_per_epoch)


def open_log(
    config: ConfigDict, workdir: str, schedule: Schedule, step: int, report: Report
) -> metrics.Log:
    """The log of a run that starts after `step`: WORKDIR/metrics.jsonl, one record a line.

    Records are written every `config.log_every` steps and at the end of every epoch, and given to
    `report` together with 'total_steps', 'batch_size' and 'resumed_at', the step this run started
    from. Training metrics are means since the last record. 'weight_snr' is the mean over layers at
    the end of the step; if the step ended in a sleep, 'weight_snr_before_sleep' is the one before.
    'seconds' are those of training, in all.
    """
    run = {
        'total_steps': schedule.total_steps,
        'batch_size': config.batch_size,
        'resumed_at': step,
    }
    sinks = [lambda record: report({**record, **run})]
    if config.tensorboard and jax.process_index() == 0:
        sinks.append(metrics.tensorboard(locate(workdir) / 'tensorboard'))
    return metrics.Log(locate(workdir) / 'metrics.jsonl', step, sinks)


def evaluated_split(config: ConfigDict) -> str:
    """The prefix of the names of evaluation metrics: 'validation' or 'test'."""
    return 'validation' if config.validation else 'test'


def evaluate(
    experiment: Experiment, train_state: TrainState, images: inputs.Input
) -> dict[str, float]:
    """Metrics of the images kept for evaluation, each counted once; see `evaluated_split`."""
    sums = Sums.zero()
    for pixels in images.evaluate():
        sums += parallel.first(experiment.evaluate(train_state, pixels))
    split = evaluated_split(experiment.config)
    return {f'{split}_{name}': value for name, value in sums.means().items()}


def mean_snr(experiment: Experiment, train_state: TrainState) -> float | None:
    """Mean weight SNR over layers; None for a network without locally connected layers."""
    snrs = parallel.first(experiment.snr(train_state))
    return float(sum(snrs.values()) / len(snrs)) if snrs else None


def check_finite(
    experiment: Experiment,
    train_state: TrainState,
    sums: Sums,
    record: Record,
    schedule: Schedule,
    log: metrics.Log,
) -> None:
    """Raises Diverged, after logging the record, if the loss or the state is not finite."""
    if np.isfinite(sums.loss) and parallel.first(experiment.is_finite(train_state)):
        return
    # `sums` begin after the last record and end with the step whose loss was not finite.
    step = log.last.get('step', 0) + round(sums.count / experiment.config.batch_size)
    log.add({**record, 'step': step, 'epoch': step / schedule.steps_per_epoch})
    raise Diverged(
        f'training diverged: at step {step} the loss or a parameter is not finite; checkpoints are '
        'from before. Start again in another workdir, with a lower config.learning_rate.'
    )
