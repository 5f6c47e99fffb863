"""`train_and_evaluate`: config -> experiment, images -> wake, sleep -> records, checkpoints."""

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lcn_jax import plugins
from lcn_jax.errors import Diverged, Stopped, UsageError
from lcn_jax.files import locate
from lcn_jax.training import config as configs
from lcn_jax.training import faults, inputs, measures, metrics, ownership, parallel, profiling
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.metrics import Record, Report, Sums, ignore
from lcn_jax.training.schedule import Schedule

if TYPE_CHECKING:
    from lcn_jax.training.checkpoint import Snapshot


def train_and_evaluate(
    config: ConfigDict, workdir: str, report: Report = ignore, experiment: Experiment | None = None
) -> dict[str, Any]:
    """Trains as `config` says, from the latest checkpoint in `workdir`; returns the last record.

    `experiment` was made from this config; the seed may differ. A run that resumes computes, bit
    for bit, what it would have computed uninterrupted. Raises UsageError, InUse if another process
    writes to `workdir`, Diverged, or Stopped after a signal.
    """
    experiment = experiment_of(config, experiment)
    with ownership.owned(workdir):
        return train(config, workdir, report, experiment)


def train(
    config: ConfigDict, workdir: str, report: Report, experiment: Experiment
) -> dict[str, Any]:
    """`train_and_evaluate` in a workdir that this process owns already."""
    from lcn_jax.training import checkpoint, start  # need orbax, which the steps do not

    parallel.check_same_values(configs.of_all_processes(config), 'config')
    init_key, data_key, sleep_key = keys(config.seed)
    schedule, wake = experiment.schedule, experiment.wake  # before images are read: it may refuse
    last_chance = min(schedule.total_steps, schedule.sleep_until)
    if last_chance < schedule.sleep_every:
        warnings.warn(
            f'the network will not sleep: the first sleep would come after step '
            f'{schedule.sleep_every}, but there is none after step {last_chance}; lower '
            f'config.sleep.every{" or raise config.sleep.until" if config.sleep.until else ""}.',
            stacklevel=2,
        )
    images = inputs.make(config, data_key)
    sleep = experiment.sleep if schedule.sleep_every else None
    with (
        checkpoint.claim(workdir, config, schedule.steps_per_epoch),
        faults.StopRequests() as requests,  # until all is written, for signals come twice
        checkpoint.Checkpoints(workdir) as checkpoints,
        contextlib.ExitStack() as traces,
    ):
        state, now = start.start(checkpoints, experiment, init_key)
        step, best, stopping = int(now.state.step), now.best, False
        log = open_log(config, workdir, schedule, now, report)
        profile = traces.enter_context(
            profiling.tracing(locate(workdir) / 'profile', step, config.profile)
        )
        sums, traced = parallel.replicate(now.sums), profile(step)
        while step < schedule.total_steps and not stopping:
            first, step = step, min(schedule.next_stop(step), traced)
            for pixels, order, steps in images.train(first, step):
                state, sums = wake(state, sums, pixels, order, data_key, steps)
            jax.block_until_ready(sums)  # or the host queues steps, and a stop waits for them all
            traced = profile(step)
            checkpoints.check()
            stopping = requests.should_stop()
            due = schedule.events(step, stopping)
            record = {'step': step, 'epoch': step / schedule.steps_per_epoch}
            if sleep and due.sleep:
                record |= measures.weights_before_sleep(experiment, state) if due.log else {}
                state = sleep(state, sleep_key)
            if due.log or due.save:
                trained = parallel.first(sums)
                record |= measures.training(trained)
                if not (np.isfinite(trained.loss) and parallel.first(experiment.is_finite(state))):
                    steps = round(trained.count / config.batch_size)
                    raise diverged(log, record, steps, schedule)
            if due.log:
                record |= measures.weights(experiment, state)
                record |= measures.evaluation(experiment, state, images) if due.evaluate else {}
                sums = parallel.replicate(Sums.zero())
                log.add(record | {'seconds': log.seconds()})
            accuracy = record.get(
                f'{measures.evaluated_split(config)}_top1', checkpoint.NOT_EVALUATED
            )
            improved, best = accuracy > best, max(accuracy, best)
            if due.save or (improved and config.checkpoint_every):
                whole, so_far = experiment.snapshot(state), parallel.first(sums)
                now = checkpoint.Snapshot(whole, so_far, best, log.seconds())
                log.sync()
                checkpoints.save(step, now, accuracy)
    return finish(log, step, schedule, experiment)


def experiment_of(config: ConfigDict, experiment: Experiment | None) -> Experiment:
    """The `experiment`, or a new one; ValueError if it is that of another config."""
    experiment = experiment or Experiment.create(config)
    if experiment.config != configs.without_seed(config):
        raise ValueError('the experiment is that of another config.')
    return experiment


def keys(seed: int) -> jax.Array:
    """(3,): the keys of the initialisation, of the data, and of sleep."""
    return jax.random.split(jax.random.key(seed), 3)


def open_log(
    config: ConfigDict, workdir: str, schedule: Schedule, start: 'Snapshot', report: Report
) -> metrics.Log:
    """The log of a run that continues from `start`: WORKDIR/metrics.jsonl, one record a line.

    docs/logging.md says what is in a record. `report` and the function that `config.report` names
    get it together with 'total_steps', 'batch_size' and 'resumed_at', the step of `start`.
    """
    step = int(start.state.step)
    run = {
        'total_steps': schedule.total_steps,
        'batch_size': config.batch_size,
        'resumed_at': step,
    }
    reports = [report]
    if config.report and jax.process_index() == 0:
        make_report = plugins.load(config.report, 'report', [])
        plugins.check_options(make_report, 2, {}, f'report {config.report!r}')
        reports.append(make_report(config, workdir))
    sinks: list[Report] = [
        lambda record, report=report: report({**record, **run}) for report in reports
    ]
    if config.tensorboard and jax.process_index() == 0:
        sinks.append(metrics.tensorboard(locate(workdir) / 'tensorboard'))
    return metrics.Log(locate(workdir) / 'metrics.jsonl', step, float(start.seconds), sinks)


def diverged(log: metrics.Log, record: Record, steps: int, schedule: Schedule) -> Diverged:
    """Logs the record of the step at which the loss or the state stopped being finite.

    steps: since the last record; the metrics end with the step whose loss was not finite.
    """
    step = log.last.get('step', 0) + steps
    log.add({**record, 'step': step, 'epoch': step / schedule.steps_per_epoch})
    return Diverged(
        f'training diverged: at step {step} the loss or a parameter is not finite; checkpoints are '
        'from before. Start again in another workdir, with a lower config.learning_rate.'
    )


def finish(
    log: metrics.Log, step: int, schedule: Schedule, experiment: Experiment
) -> dict[str, Any]:
    """The last record with the number of 'parameters'.

    Raises:
      Stopped: steps are left.
      UsageError: the record of the last step is gone.
    """
    if step < schedule.total_steps:
        raise Stopped(
            f'stopped at step {step} of {schedule.total_steps}; the same command continues from '
            'there.'
        )
    if log.last.get('step') != step:
        raise UsageError(
            f'the run is finished, but the record of its last step is not in {log.path}: evaluate '
            'the checkpoint with experiments.evaluate, or train again in another workdir.'
        )
    return {**log.last, 'parameters': experiment.network.parameters}
