"""Workers as tasks of a cluster, by submitit."""

import contextlib
import io
import os
import shutil

from absl import flags

from experiments.common.workers import this_command
from lcn_jax.commands import Task
from lcn_jax.errors import UsageError

CLUSTER = flags.DEFINE_enum(
    'cluster',
    None,
    ['slurm', 'local'],
    'Submit the workers, as an array of tasks, and return. local: processes of this machine.',
)
PARTITION = flags.DEFINE_string('slurm_partition', None, 'Of the tasks.')
GRES = flags.DEFINE_string('slurm_gres', None, 'Of each task, such as gpu:1.')
MINUTES = flags.DEFINE_integer(
    'slurm_time',
    60,
    'Minutes of a task. Before its end it saves a checkpoint and goes into the queue again.',
    lower_bound=5,
)
OPTIONS = flags.DEFINE_list(
    'slurm_options', [], 'More options of sbatch: account=NAME,cpus-per-task=8,mem=16G.'
)
SAVING_SECONDS = 90  # between the signal and the end of a task
LIMITS = 1000  # how often a task may reach its time limit


def submit(tasks: int, out: str) -> None:
    """Submits workers that run this command, and says where their output is.

    Raises:
      UsageError: submitit or SLURM is missing, or SLURM refuses the tasks.
    """
    # The signal before the end of a task is that of a preemption, and what a run hears.
    os.environ['SUBMITIT_PREEMPT_SIGNAL'] = 'TERM'
    try:
        import submitit
        from submitit.core import utils
    except ImportError:
        raise UsageError("--cluster needs submitit: pip install 'lcn_jax[slurm]'.") from None
    if CLUSTER.value == 'slurm' and not shutil.which('sbatch'):
        raise UsageError('there is no sbatch here: submit from a host of the SLURM cluster.')
    folder = os.path.abspath(os.path.join(out, 'tasks'))
    command = this_command()
    limits = {f'{CLUSTER.value}_max_num_timeout': LIMITS}
    executor = submitit.AutoExecutor(folder, CLUSTER.value, **limits)
    executor.update_parameters(
        name=f'lcn-{command[0]}',
        timeout_min=MINUTES.value,
        slurm_partition=PARTITION.value,
        slurm_gres=GRES.value,
        slurm_signal_delay_s=SAVING_SECONDS,
        slurm_additional_parameters=options(),
    )
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # what the error says, too
            submitted = executor.submit_array([Task([*command, '--worker'])] * tasks)
    except utils.FailedJobError as error:
        raise UsageError(f'SLURM refuses the tasks: {error}') from error
    print(
        f'{tasks} tasks are submitted, from {submitted[0].job_id} on; {folder} has their output. '
        'The last one to finish writes the report, and the same command prints it.'
    )


def options() -> dict[str, str]:
    """Those of sbatch, by their names; UsageError if one has no value."""
    pairs = [option.partition('=') for option in OPTIONS.value]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise UsageError(f'--slurm_options: {name!r} has no value; give NAME=VALUE.')
    return {name: value for name, _, value in pairs}
