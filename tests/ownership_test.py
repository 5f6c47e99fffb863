"""A workdir has one owner at a time, which is free again however its owner ended."""

import contextlib
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest
import tiny_runs

from lcn_jax.errors import InUse, UsageError
from lcn_jax.training import ownership

OWN = """
import sys, time
from lcn_jax.training import ownership
with ownership.owned(sys.argv[1]):
    print('owned', flush=True)
    time.sleep(10**6)
"""


def owner(workdir):
    """A process that owns the workdir until it is killed."""
    process = subprocess.Popen(
        [sys.executable, '-c', OWN, str(workdir)],
        stdout=subprocess.PIPE,
        text=True,
        env=tiny_runs.environment(1),
        cwd=tiny_runs.ROOT,
    )
    assert process.stdout is not None and process.stdout.readline() == 'owned\n'
    return process


def test_the_owner_is_named_until_it_ends(tmp_path):
    workdir = str(tmp_path / 'runs' / 'new')
    here = f'in use by process {os.getpid()} on {socket.gethostname()}: wait until it ends, stop it'
    for _ in range(2):
        with ownership.owned(workdir):
            with pytest.raises(InUse, match=here) as error, ownership.owned(workdir):
                pytest.fail('two owners')
            assert '\n' not in str(error.value)
        with contextlib.suppress(KeyError), ownership.owned(workdir):
            raise KeyError  # an error ends it, too


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_owner_owns_nothing(number, tmp_path):
    process = owner(tmp_path)
    with pytest.raises(InUse, match=f'process {process.pid} on '), ownership.owned(str(tmp_path)):
        pytest.fail('two owners')
    process.send_signal(number)
    process.wait()
    with ownership.owned(str(tmp_path)):
        assert str(os.getpid()) in (tmp_path / 'lock').read_text()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', flock)
    with (
        pytest.warns(UserWarning, match=rf'{tmp_path} has no locks \(No locks available\)'),
        ownership.owned(str(tmp_path)),
    ):
        pass


def test_shared_locks_need_a_file_that_can_be_read(tmp_path, monkeypatch):
    """NFS 4 takes flock for a POSIX lock, as lockf does; its shared ones are for readers."""
    monkeypatch.setattr(fcntl, 'flock', lambda file, operation: fcntl.lockf(file, operation))
    assert ownership.has_locks(str(tmp_path))


def test_a_workdir_that_cannot_be_owned_is_one_line(tmp_path, monkeypatch):
    (tmp_path / 'lock').mkdir()
    with pytest.raises(UsageError, match=r'cannot write .*lock'), ownership.owned(str(tmp_path)):
        pytest.fail('owned')

    def flock(file, operation):
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(fcntl, 'flock', flock)
    other = str(tmp_path / 'other')
    with pytest.raises(UsageError, match='Input/output error'), ownership.owned(other):
        pytest.fail('owned')


def test_a_full_disk_is_one_line(tmp_path):
    full = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))'
    done = subprocess.run(
        [sys.executable, '-c', full + OWN, str(tmp_path)],
        capture_output=True,
        text=True,
        env=tiny_runs.environment(1),
        cwd=tiny_runs.ROOT,
        check=False,
    )
    assert done.stdout == ''
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f'lcn_jax.errors.NotWritten: cannot write {tmp_path}/lock (')
    assert 'File too large' in last and 'make room' in last


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp('data'))


@pytest.mark.slow
def test_a_second_run_is_refused_in_one_line_and_touches_nothing(data_dir, tmp_path):
    starter = tiny_runs.Starter('resident', data_dir)
    starter.fork(tmp_path, '--config.epochs=1')
    with ownership.owned(str(tmp_path)):
        before = contents(tmp_path)
        output = starter.fork(tmp_path, '--config.epochs=1', '--config.workers=3', status=1)
        assert contents(tmp_path) == before
    assert output.splitlines()[-1] == (
        f'error: {tmp_path} is in use by process {os.getpid()} on {socket.gethostname()}: wait '
        'until it ends, stop it, or choose another workdir.'
    )
    assert 'Traceback' not in output
    starter.fork(tmp_path, '--config.epochs=1', '--config.workers=3')


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}
