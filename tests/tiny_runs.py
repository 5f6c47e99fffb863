r"""Runs that take a second, started as users start them, in processes that may be killed.

A process acts on itself: `before=at(pattern, action, number)` has Python run `action` just before
the process touches a file for the `number`-th time in a way that matches `pattern`.

    KILL = 'os.kill(os.getpid(), signal.SIGKILL)'
    starter.fork(workdir, before=at(r"os\.rename \('[^']*/config\.json", KILL), status=-9)
    starter.fork(workdir, before=record(4, KILL), status=-9)  # before its 4th record
    starter.fork(workdir)                                     # goes on from there, to the end

A pattern is searched for in "EVENT (ARGUMENTS)" of an audit event of Python: the events in `at`.
`fork` and `start` begin in a process that has imported everything, `finish` as a user does.
"""

import atexit
import functools
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from lcn_jax.training import checkpoint
from lcn_jax.training import config as configs
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.train import train_and_evaluate

ROOT = Path(__file__).parent.parent
HANGS = 1800  # seconds after which a test gives up
ONE_SAVE = '--config.checkpoint_every=0'  # at the end; the run computes nothing else
# Makes a process of root obey permissions, as those of other users do.
AS_A_USER = """
import ctypes, os
if os.geteuid() == 0:
    libc, capabilities = ctypes.CDLL(None), (ctypes.c_uint32 * 6)()
    header = (ctypes.c_uint32 * 2)(0x20080522)
    assert libc.capget(header, capabilities) == 0
    capabilities[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, capabilities) == 0
"""


def get_config(kind: str):
    """'resident': 100 steps; 'streaming': 48 steps. Checkpoints come between records."""
    config = configs.default()
    config.model.stage_sizes, config.model.width = (), 2  # the stem and the readout
    config.translations.padding = 1
    config.image_size = 8
    config.log_every, config.checkpoint_every = 4, 5
    config.sleep.every, config.sleep.full_step = 7, True
    config.sleep.hebbian.steps = config.sleep.hebbian.patterns_per_step = 3
    if kind == 'resident':
        config.dataset, config.batch_size, config.epochs = 'digits', 24, 2
    elif kind == 'streaming':
        config.dataset, config.batch_size, config.epochs = 'imagenet2012', 8, 8
        config.mean, config.std = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
        config.workers = 0
    return configs.apply_kind(config, 'lc_hebbian')


def one_epoch(data_dir) -> ConfigDict:
    """'resident' for an epoch: 50 steps."""
    config = get_config('resident')
    config.data_dir, config.epochs = str(data_dir), 1
    return config


def environment(devices: int) -> dict[str, str]:
    """Variables of a process with this number of devices; such processes share compiled programs.

    XLA optimises little, for these processes compile much and compute little.
    """
    return os.environ | {
        'PYTHONPATH': str(ROOT),
        'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
        'JAX_PLATFORMS': 'cpu',
        'JAX_NUM_CPU_DEVICES': str(devices),
    }


def at(pattern: str, action: str, number: int = 1) -> str:
    """Statements with which a process acts on itself when it touches a file in a certain way.

    `pattern` is sought in "EVENT (ARGUMENTS)" of Python's audit events, as in "os.rename ('a', 'b'"
    or "open ('metrics.jsonl', 'a'"; they come before the deed. `number`: at which of those found.
    """
    return f"""
import os, re, signal, sys
EVENTS = 'import', 'open', 'os.mkdir', 'os.remove', 'os.rename', 'os.rmdir', 'shutil.rmtree'
def act(event, arguments, found=[]):
    if event in EVENTS and re.search({pattern!r}, f'{{event}} {{arguments}}'):
        found.append(event)
        if len(found) == {number}:
            {action}
sys.addaudithook(act)
"""


def record(number: int, action: str) -> str:
    """As `at`, before a process writes its record of that number."""
    return at(r"open \('[^']*metrics\.jsonl', 'a'", action, number)


class Starter:
    """Starts experiments.train on the tiny configs."""

    def __init__(self, kind: str, data_dir: str):
        self._flags = f'--config={__file__}:{kind}', f'--config.data_dir={data_dir}'

    def start(self, workdir: Path, *flags: str, devices=1, before='') -> 'Fork':
        """`before`: Python statements to run first."""
        arguments = [*self._flags, f'--workdir={workdir}', *flags]
        return Fork('experiments.train', arguments, devices, before, together=True)

    def fork(self, workdir: Path, *flags: str, status=0, **options) -> str:
        """Runs to the end; returns what was printed."""
        return finish(self.start(workdir, *flags, **options), status)

    def finish(self, workdir: Path, *flags: str, status=0, devices=1, before='') -> str:
        """As `fork`, but as a user does it."""
        program = f'{before}\nimport runpy\nrunpy.run_module("experiments.train", None, "__main__")'
        arguments = [sys.executable, '-c', program, *self._flags, f'--workdir={workdir}', *flags]
        return finish(Process(arguments, env=environment(devices), cwd=ROOT), status)


class Process(subprocess.Popen):
    """A process that is read while it runs: one whose pipe is full would stop."""

    def __init__(self, arguments: list[str], **options):
        streams = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
        super().__init__(arguments, **streams, **options)
        self._lines: list[str] = []
        self._reader = threading.Thread(target=lambda: self._lines.extend(self.stdout), daemon=True)
        self._reader.start()

    def output(self) -> str:
        """What it prints until it ends."""
        self.wait(HANGS)
        self._reader.join(HANGS)
        return ''.join(self._lines)


class Fork:
    """A module that runs in a process of which all imports are done, which saves seconds.

    The process is forked from one that has done nothing else: JAX has not started its threads.
    """

    def __init__(self, module: str, arguments, devices=1, before='', together=False):
        """`before`: Python statements to run first. `together`: errors go to the output."""
        self._folder = tempfile.TemporaryDirectory()
        names = ['output', 'output' if together else 'errors']
        self._files = [Path(self._folder.name, name) for name in names]
        arguments = list(map(str, arguments))
        self._process = _forks.Process(
            target=_run, args=(module, arguments, devices, before, self._files), daemon=True
        )
        self._process.start()
        self.pid, self.kill = self._process.pid, self._process.kill

    def output(self) -> str:
        """What it prints until it ends."""
        self._process.join(HANGS)
        return self._files[0].read_text()

    def errors(self) -> str:
        return self._files[1].read_text()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode


def finish(process: Process | Fork, status: int) -> str:
    """What a process prints until it ends, which it does with that status."""
    output = process.output()
    assert process.returncode == status, output
    return output


def call(binary: str, *flags: str, **options) -> subprocess.CompletedProcess:
    """What became of a binary that a `Fork` runs to its end."""
    fork = Fork(f'experiments.{binary}', flags, **options)
    output = fork.output()
    return subprocess.CompletedProcess([binary, *flags], fork.returncode, output, fork.errors())


_forks = multiprocessing.get_context('forkserver')
_forks.set_forkserver_preload(
    [
        'experiments',  # keeps XLA quiet
        'experiments.common.cli',
        'experiments.common.overview',
        'lcn_jax.training.train',
        'tensorflow_datasets',
        'grain',
        'jaxlib.mlir.dialects.mhlo',
        'matplotlib.pyplot',
        'scipy.stats',
        'tests.preloaded',
    ]
)


def _run(module, arguments, devices, before, streams):
    multiprocessing.current_process().daemon = False  # as which it could start no workers
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    os.chdir(ROOT)
    sys.argv = [str(ROOT / f'{module.replace(".", "/")}.py'), *arguments]  # as `python -m` does
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', devices)
    jax.config.update('jax_disable_most_optimizations', True)  # as in `environment`
    exec(before, {})
    try:
        runpy.run_module(module, None, '__main__')
    finally:
        atexit._run_exitfuncs()  # of which such a process knows nothing


def records(workdir: Path) -> list[dict]:
    """Of metrics.jsonl, without the wall-clock time, which no two runs share."""
    path = Path(workdir) / 'metrics.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if k != 'seconds'} for line in lines]


@functools.cache
def _experiment(values: FrozenConfigDict) -> Experiment:
    return Experiment.create(ConfigDict({**values.to_dict(), 'seed': 0}))


def experiment(config) -> Experiment:
    """The experiment of a config, whose programs are shared by all tests that use it."""
    return _experiment(configs.without_seed(config))


def train(config, workdir: Path, report=lambda record: None) -> dict:
    """`train_and_evaluate`, with the programs of earlier runs: tracing takes longer than a run."""
    return train_and_evaluate(config, str(workdir), report, experiment(config))


def snapshot(workdir: Path, which: str = 'latest') -> checkpoint.Snapshot:
    """A checkpoint of the workdir, but for the wall-clock time."""
    shapes = experiment(checkpoint.read_config(str(workdir))).shapes
    with checkpoint.Checkpoints(str(workdir), read_only=True) as checkpoints:
        return checkpoints.restore(checkpoints.find(which), shapes).replace(seconds=0)


def assert_same(workdir: Path, other: Path) -> None:
    """Records and the latest checkpoint are the same, bit for bit."""
    assert records(workdir) == records(other)
    leaves, expected = (jax.tree_util.tree_leaves_with_path(snapshot(w)) for w in (workdir, other))
    assert len(leaves) == len(expected)
    for (path, leaf), (_, value) in zip(leaves, expected):
        np.testing.assert_array_equal(leaf, value, jax.tree_util.keystr(path))
