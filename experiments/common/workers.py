"""Workers: processes that train the runs of a folder, each the next one that is free.

They need nothing but the folder (`runs.py`), so they may be started by hand, on several hosts, by
`--jobs` or by `--cluster`; and the run of one that dies is taken by another.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import tqdm

from experiments.common.provenance import cores
from experiments.common.runs import Runs
from lcn_jax.errors import InUse, Stopped
from lcn_jax.training import faults, ownership
from lcn_jax.training.metrics import Report

POLL_SECONDS = 0.5
# The part of a GPU's memory that a process takes, and JAX' default of it.
GPU_MEMORY, GPU_MEMORY_OF_ONE = 'XLA_PYTHON_CLIENT_MEM_FRACTION', '0.75'
CONTINUES = 'stopped; the same command continues from there.'


class Announcer:
    """Prints a line for each run that has ended since the last call."""

    def __init__(self, runs: Runs):
        self._runs, self._left = runs, list(runs.configs)

    def __call__(self) -> list[str]:
        """Returns the names of the runs that have not ended."""
        before, self._left = self._left, self._runs.left(self._left)
        total = len(self._runs.configs)
        ended = [name for name in before if name not in self._left]
        for number, name in enumerate(ended, total - len(before) + 1):
            tqdm.tqdm.write(f'{number}/{total}  {name}  {self._runs.outcome(name)}')
        sys.stdout.flush()
        return self._left


def work(runs: Runs, show: Callable[[str], Report], announce: Announcer, leaves: bool) -> None:
    """Trains until all runs have ended; `show(name)` gets the records of each.

    Where others have taken all that are left, this process waits, in case one of them dies. One
    that `leaves` returns instead if another one already waits.

    Raises:
      Stopped: a signal came.
    """
    last = experiment = None
    waits = not leaves
    with faults.StopRequests(several=False) as requests, contextlib.ExitStack() as waiting:
        while left := announce():
            if requests.should_stop():
                raise Stopped(CONTINUES)
            with runs.taken(left, last) as name:
                if name is not None:
                    waiting.close()
                    waits = not leaves
                    experiment = runs.train(name, show(name), experiment)
                    last = name
                    continue
            if not waits:
                try:
                    waiting.enter_context(ownership.owned(runs.out))
                except InUse:
                    return
                waits = True
            time.sleep(POLL_SECONDS)


def launch(jobs: int, runs: Runs, announce: Announcer) -> None:
    """Starts workers on this machine, which share its cores, and shows what they do.

    Returns when they have ended, also if runs are left.

    Raises:
      Stopped: a signal came; the workers have saved what they did.
    """
    # Ctrl-C at a terminal reaches all processes. Workers ignore it until they can save; then they
    # stop, as by the SIGTERM of their parent.
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    workers = [start(jobs, share) for share in shares(jobs)]
    signal.signal(signal.SIGINT, former)
    stopping = False
    bar = tqdm.tqdm(total=len(runs.configs), unit='run', disable=None, dynamic_ncols=True)
    try:
        with faults.StopRequests(several=False) as requests, bar:
            while any(worker.poll() is None for worker in workers):
                if requests.should_stop() and not stopping:
                    stopping = True
                    for worker in workers:
                        worker.terminate()
                left = announce()
                if not bar.disable:
                    trained = {name: runs.progress(name) for name in left}
                    begun = [f'{name} {part:.0%}' for name, part in trained.items() if part]
                    bar.set_postfix_str(', '.join(begun), refresh=False)
                    bar.n = round(bar.total - len(left) + sum(trained.values()), 2)
                    bar.refresh()
                time.sleep(POLL_SECONDS)
            announce()
    finally:
        for worker in workers:
            worker.kill()  # after a second Ctrl-C, or an error
    if stopping:
        raise Stopped(CONTINUES)


def start(jobs: int, share: Sequence[int]) -> subprocess.Popen:
    """A worker, one of `jobs`, on its share of the cores of this machine.

    What it does is in the folder, so it prints errors and warnings only.
    """
    command = [sys.executable, '-m', 'lcn_jax.commands', *this_command(), '--worker']
    memory = float(os.environ.get(GPU_MEMORY, GPU_MEMORY_OF_ONE)) / jobs
    environment = os.environ | {GPU_MEMORY: f'{memory:.3f}'}
    worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    if share:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(worker.pid, share)  # before it has threads, which inherit it
    return worker


def this_command() -> list[str]:
    """The name of the binary that runs, and its flags."""
    return [pathlib.Path(sys.argv[0]).stem.removeprefix('lcn-'), *sys.argv[1:]]


def shares(jobs: int) -> list[list[int]]:
    """The cores of this process, divided among workers; [] for each where a system cannot."""
    if not hasattr(os, 'sched_setaffinity'):
        return [[]] * jobs
    all_cores, count = cores(), len(cores())
    if jobs > count:
        return [[all_cores[number % count]] for number in range(jobs)]
    return [
        all_cores[number * count // jobs : (number + 1) * count // jobs] for number in range(jobs)
    ]
