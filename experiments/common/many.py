"""One command for many runs: a list of runs, workers that train them, and a report.

A command makes the list, and says what to report of its folder. The flags say which workers there
are: this process, some on this machine, or tasks of a cluster.
"""

import importlib.util
import os
import time
from collections.abc import Callable
from importlib import metadata

from absl import flags

from experiments.common import cluster, workers
from experiments.common.provenance import cores
from experiments.common.runs import Runs, reason
from lcn_jax.errors import UsageError
from lcn_jax.training import ownership
from lcn_jax.training.metrics import ignore
from lcn_jax.training.progress import Progress

JOBS = flags.DEFINE_integer(
    'jobs',
    None,
    'Train this many networks at the same time. By default two on a CPU, one on a GPU or TPU, and '
    'on a cluster all.',
    lower_bound=1,
)
WORKER = flags.DEFINE_bool(
    'worker', False, 'Only train: what --jobs and --cluster start. It ends when others do the rest.'
)


def run(runs: Runs, report: Callable[[str], str]) -> None:
    """Trains the runs that have not ended, as the flags say, then reports and prints.

    report: folder -> the text to print; it also writes files there, which follow from what the
    folder holds, for several processes may do so.

    Raises:
      UsageError: a config or a flag is wrong, or runs failed. The report has the others.
      Stopped: a signal came.
    """
    runs.check()
    several = WORKER.value or cluster.CLUSTER.value or (JOBS.value or default_jobs()) > 1
    if several and not ownership.has_locks(runs.out):
        raise UsageError(
            f'the file system of {runs.out} has no locks, by which workers know what others train: '
            'choose another --out, or --jobs=1 and a single process.'
        )
    if WORKER.value:
        workers.work(runs, lambda name: ignore, workers.Announcer(runs), leaves=True)
        if not runs.left() and len(runs.failed()) < len(runs.configs):
            report(runs.out)
        return
    runs.forget_failures()
    started, left = time.perf_counter(), len(runs.left())
    if cluster.CLUSTER.value and left:
        cluster.submit(JOBS.value or left, runs.out)
        return
    announce, jobs = workers.Announcer(runs), min(JOBS.value or default_jobs(), left)
    if jobs > 1:
        workers.launch(jobs, runs, announce)
    workers.work(runs, Progress, announce, leaves=False)
    failed = runs.failed()
    if len(failed) == len(runs.configs):
        raise UsageError(f'no run succeeded; {failed[0]}: {reason(runs.workdir(failed[0]))}')
    if left:
        print(f'\n{left} runs in {time.perf_counter() - started:.0f} s')
    print(f'\n{report(runs.out)}')
    if failed:
        raise UsageError(
            f'{len(failed)} of {len(runs.configs)} runs failed: {", ".join(failed)}. The same '
            'command tries them again.'
        )


def default_jobs() -> int:
    """Two where the work is done by a CPU of two cores or more, else one.

    Known without JAX, which would take the memory of a GPU when it looks for one.
    """
    others = metadata.entry_points(group='jax_plugins') or importlib.util.find_spec('libtpu')
    on_cpu = os.environ.get('JAX_PLATFORMS') == 'cpu' or not others
    return min(2, len(cores())) if on_cpu else 1
