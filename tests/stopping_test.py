"""Stopping a run: signals that come twice, and errors of the disk, on which it stops by itself."""

import os
import re
import shutil
import time

import numpy as np
import pytest
import tiny_runs

from lcn_jax.errors import UsageError
from lcn_jax.training import checkpoint

TERMINATE = 'os.kill(os.getpid(), signal.SIGTERM)'
ORBAX_WAITS = 300  # seconds, for a folder that cannot be made


@pytest.fixture(scope='module')
def resident(tmp_path_factory):
    return tiny_runs.Starter('resident', str(tmp_path_factory.mktemp('data')))


@pytest.fixture(scope='module')
def uninterrupted(resident, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('uninterrupted')
    resident.fork(workdir, tiny_runs.ONE_SAVE)
    return workdir


def steps_of(workdir):
    return {path.name for path in (workdir / 'checkpoints').glob('*') if path.name.isdigit()}


@pytest.mark.slow
def test_a_second_signal_does_not_kill_the_save(resident, uninterrupted, tmp_path):
    """One more comes when the save begins, another when it ends."""
    signalled = ''.join(
        [
            tiny_runs.record(3, TERMINATE),
            tiny_runs.at(r"os\.mkdir \('[^']*/14\.orbax[^/']*'", TERMINATE),
            tiny_runs.at(r"os\.rename \('[^']*/14\.orbax[^/']*', ", TERMINATE),
        ]
    )
    output = resident.fork(tmp_path, before=signalled, status=75)
    assert output.splitlines()[-1].startswith('stopped at step 14 of 100')
    assert '14' in steps_of(tmp_path)
    resident.fork(tmp_path, tiny_runs.ONE_SAVE)
    tiny_runs.assert_same(tmp_path, uninterrupted)


PERMISSION = 'os.chmod({workdir!r} + "/checkpoints", 0o555)'
GONE = 'os.rename({workdir!r}, {workdir!r} + "-gone")'
FULL = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))'
# In the save of step 15.
BEGIN, MIDDLE, END = (
    rf"os\.{event}[^/']*'"
    for event in (
        r"mkdir \('[^']*/15\.orbax",
        r"mkdir \('[^']*/15\.orbax[^/']*/snapshot",
        r"rename \('[^']*/15\.orbax",
    )
)
FAILURES = {
    'no permission when it begins': (PERMISSION, BEGIN),
    'no permission when it ends': (PERMISSION, END),
    'gone when it begins': (GONE, BEGIN),
    'gone in the middle': (GONE, MIDDLE),
    'full': (FULL, BEGIN),
}


@pytest.mark.slow
@pytest.mark.parametrize('failure', FAILURES)
def test_a_disk_that_fails_is_one_line_and_keeps_the_last_checkpoint(
    failure, resident, uninterrupted, tmp_path
):
    workdir = tmp_path / 'run'
    workdir.mkdir()
    action, moment = FAILURES[failure]
    fail = tiny_runs.at(moment, action.format(workdir=str(workdir)))
    started = time.monotonic()
    run = resident.finish if failure == 'full' else resident.fork  # whose output is a file, too
    output = run(workdir, before=tiny_runs.AS_A_USER + fail, status=1)
    assert time.monotonic() - started < ORBAX_WAITS
    *others, error = output.splitlines()
    assert error.startswith(f'error: cannot write {workdir}/')
    assert error.endswith('. It continues from the last checkpoint, if any.')
    assert not [line for line in others if re.match(r'Traceback| |\w*Error', line)], output

    if (tmp_path / 'run-gone').exists():
        shutil.rmtree(workdir, ignore_errors=True)  # a thread of orbax may have made it anew
        os.rename(tmp_path / 'run-gone', workdir)
    (workdir / 'checkpoints').chmod(0o755)
    assert steps_of(workdir) == {'5', '10'}
    resident.fork(workdir, tiny_runs.ONE_SAVE)
    tiny_runs.assert_same(workdir, uninterrupted)


def test_a_save_that_failed_is_noticed_before_the_next(tmp_path, monkeypatch):
    state = {'kernel': np.zeros(3, np.float32)}
    rename = os.rename

    def refused(source, target):
        if str(target).endswith('/2'):
            raise PermissionError(13, 'Permission denied')
        rename(source, target)

    monkeypatch.setattr(os, 'rename', refused)
    with checkpoint.Checkpoints(str(tmp_path)) as checkpoints:
        snapshot = checkpoint.Snapshot.of(state)
        checkpoints.save(1, snapshot, 0.5)
        checkpoints.save(2, snapshot, 0.5)
        with pytest.raises(UsageError, match='Permission denied'):
            for _ in range(10 * tiny_runs.HANGS):
                checkpoints.check()
                time.sleep(0.1)
        checkpoints.check()  # it is raised once
    assert steps_of(tmp_path) == {'1'}
