"""Machines that lack something: shared memory, characters, a compiler."""

import os
import signal
import subprocess
import sys

import pytest
import tiny_runs

from experiments.common import overview
from lcn_jax.data import streaming
from lcn_jax.errors import UsageError
from lcn_jax.layer.backends import native
from lcn_jax.training.experiment import Experiment


class Killing:
    """Batches of which the second kills the worker that makes it."""

    def __init__(self, number):
        self.number = number

    def __len__(self):
        return 3

    def __getitem__(self, step):
        if step == 1:
            os.kill(os.getpid(), self.number)
        return (step,)


@pytest.mark.slow
def test_too_little_shared_memory_is_one_line():
    """The system kills a worker with SIGBUS when it writes to memory that is not there."""
    made = []
    with pytest.raises(UsageError, match=r'shared memory \(/dev/shm\) is too small .*workers=0'):
        made.extend(streaming.stream(Killing(signal.SIGBUS), 0, workers=1))  # pyright: ignore
    with pytest.raises(RuntimeError) as error:  # a bug looks like one
        made.extend(streaming.stream(Killing(signal.SIGSEGV), 0, workers=1))  # pyright: ignore
    assert not isinstance(error.value, UsageError)


# As in a container, or a job that a scheduler starts.
ASCII = {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}


def run_in_ascii(binary, *flags):
    module, config = f'experiments.{binary}', '--config=tests/tiny_config.py:lc'
    command = [sys.executable, '-m', module, config, *flags]
    return subprocess.run(
        command,
        cwd=tiny_runs.ROOT,
        env=tiny_runs.environment(1) | ASCII,
        capture_output=True,
        check=False,
    )


@pytest.mark.slow
def test_output_does_not_die_of_characters_that_a_terminal_lacks(tmp_path):
    flags = f'--config.data_dir={tmp_path}/data', f'--workdir={tmp_path}/run'
    done = run_in_ascii('train', *flags)
    assert done.returncode == 0, done.stderr
    assert b', 8?8?1\n' in done.stdout
    assert tiny_runs.records(tmp_path / 'run')[-1]['step'] > 0


@pytest.mark.slow
def test_a_path_that_the_locale_cannot_encode_is_one_line(tmp_path):
    done = run_in_ascii('train', f'--workdir={tmp_path}/é')
    assert done.returncode == 1
    (error,) = done.stderr.decode().splitlines()
    assert error.startswith('error: this locale has no encoding for ') and 'PYTHONUTF8=1' in error


@pytest.mark.parametrize('kind, lines', [('lc', 6), ('conv', 5)])
def test_a_run_says_why_its_layers_are_slow(kind, lines, monkeypatch, tmp_path):
    config = tiny_runs.get_config('resident')
    config.data_dir = str(tmp_path)
    if kind == 'conv':
        config.update_from_flattened_dict({'connectivity': 'conv', 'sleep.rule': 'none'})
    reason = 'no native kernel: c++: not found'
    monkeypatch.setattr(native, 'available', lambda: False)
    monkeypatch.setattr(native, 'describe', lambda: reason)
    summary = overview.summary(Experiment.create(config), str(tmp_path / 'run')).splitlines()
    assert len(summary) == lines
    assert (f'layers    slow: {reason}' in summary) == (kind == 'lc')
