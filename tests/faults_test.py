"""What happens to runs: kills, signals, exploding losses. All of it really happens."""

import os
import re
import signal
import time

import jax
import numpy as np
import pytest
import tiny_archives
import tiny_runs

from lcn_jax.data.prepare import prepare
from lcn_jax.errors import UsageError
from lcn_jax.training import train

KILL = 'os.kill(os.getpid(), signal.SIGKILL)'


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    files = tiny_archives.imagenet_files(per_class=16)
    source = tiny_archives.write_folder(folder / 'in', files)
    prepare('imagenet2012', str(folder), str(source), str(source / 'labels.txt'))
    prepare('digits', str(folder))
    return str(folder)


@pytest.fixture(scope='module')
def resident(data_dir):
    return tiny_runs.Starter('resident', data_dir)


@pytest.fixture(scope='module')
def uninterrupted(resident, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('uninterrupted')
    resident.fork(workdir, tiny_runs.ONE_SAVE)
    return workdir


@pytest.mark.slow
def test_streaming_killed_three_times_is_uninterrupted(data_dir, tmp_path):
    """Across sleeps, which come every 7 steps."""
    starter = tiny_runs.Starter('streaming', data_dir)
    starter.fork(tmp_path / 'uninterrupted', tiny_runs.ONE_SAVE)
    for number in (3, 4, 2):  # before the records of steps 12, 24 and 28
        kill = tiny_runs.record(number, KILL)
        starter.fork(tmp_path / 'killed', before=kill, status=-signal.SIGKILL)
    starter.fork(tmp_path / 'killed', tiny_runs.ONE_SAVE)
    tiny_runs.assert_same(tmp_path / 'killed', tmp_path / 'uninterrupted')


def in_save(step, number):
    """At something that a run does in the temporary folder of a save."""
    return tiny_runs.at(rf"[^']*/{step}\.orbax[^/']*/", KILL, number)


# Where a process is killed, in order. A checkpoint comes every 5 steps, a record every 4, a sleep
# every 7, and an epoch has 50.
KILLS = {
    'while it imports': tiny_runs.at(r"import \('lcn_jax\.training\.train'", KILL),
    'while it imports orbax': tiny_runs.at(r"import \('orbax\.checkpoint'", KILL),
    'before there is a folder': tiny_runs.at(r"os\.mkdir \('[^']*/checkpoints'", KILL),
    'before there is a config': tiny_runs.at(r"os\.rename \('[^']*/config\.json", KILL),
    'before there is a log': tiny_runs.at(r"os\.rename \('[^']*/metrics\.jsonl", KILL),
    'before the first record': tiny_runs.record(1, KILL),
    'in a save, the first': in_save(5, 1),
    'in a save, the first, further on': in_save(5, 5),
    'in a save, of step 10': in_save(10, 2),
    'in a save, of step 15': in_save(15, 3),
    'in a save, of step 20': in_save(20, 4),
    'in a save, after a sleep': in_save(35, 6),
    'in a save, at the end of an epoch': in_save(50, 7),
    'in a save, of step 55': in_save(55, 8),
    'in a save, at its end': tiny_runs.at(r"os\.rename \('[^']*/60\.orbax[^/']*', ", KILL),
    'while it clears up after that': tiny_runs.at(r"r(mtree|mdir|emove) \('[^']*/60\.orbax", KILL),
    'while it reads a checkpoint': tiny_runs.at(r"open \('[^']*/checkpoints/55/", KILL, 2),
    'before a record': tiny_runs.record(4, KILL),
    'within a record': tiny_runs.record(
        5, f'os.write(os.open(arguments[0], os.O_WRONLY | os.O_APPEND), b\'{{"step": 7\'); {KILL}'
    ),
    'while it deletes a checkpoint': tiny_runs.at(r"os\.rmdir \('[^']*/checkpoints/\d+'", KILL),
}  # fmt: skip


@pytest.mark.slow
def test_twenty_kills(resident, uninterrupted, tmp_path):
    """The first two in processes that start as those of users do."""
    assert len(KILLS) == 20
    unfinished = []  # saves, after each kill
    for number, (where, kill) in enumerate(KILLS.items()):
        run = resident.finish if number < 2 else resident.fork
        print('killed', where)
        run(tmp_path, before=kill, status=-signal.SIGKILL)
        left = {path.name for path in (tmp_path / 'checkpoints').glob('*')} - steps_of(tmp_path)
        assert left or ' a save' not in where
        unfinished += left
    assert len(unfinished) >= 9
    resident.fork(tmp_path, tiny_runs.ONE_SAVE)
    tiny_runs.assert_same(tmp_path, uninterrupted)


def steps_of(workdir):
    return {path.name for path in (workdir / 'checkpoints').glob('*') if path.name.isdigit()}


@pytest.mark.slow
@pytest.mark.parametrize('number', [int(signal.SIGTERM), int(signal.SIGINT)])
def test_signal_saves_and_exits_with_75(number, resident, uninterrupted, tmp_path):
    signalled = tiny_runs.record(3, f'os.kill(os.getpid(), {number})')
    output = resident.fork(tmp_path, before=signalled, status=75)
    (last,) = (line for line in output.splitlines() if line.startswith('stopped'))
    step = 14  # which ends in a sleep; the signal comes between it and the record of step 12
    assert last == f'stopped at step {step} of 100; the same command continues from there.'
    assert str(step) in steps_of(tmp_path)
    assert f'workdir   {tmp_path}, from the start\n' in output
    output = resident.fork(tmp_path, tiny_runs.ONE_SAVE)
    assert f'workdir   {tmp_path}, continues from step {step}\n' in output
    shown = [int(number) for number in re.findall(r'  step (\d+)/100  ', output)]
    assert shown[-1] == 100 and min(shown) > step  # none of those from before
    assert output.splitlines()[-1] == (
        f'{tmp_path}/metrics.jsonl has the records, {tmp_path}/checkpoints the weights'
    )
    tiny_runs.assert_same(tmp_path, uninterrupted)


@pytest.mark.slow
def test_workers_live_as_long_as_the_run(data_dir, tmp_path):
    """A terminal sends Ctrl-C to the whole process group; a killed run cannot tell its workers."""
    starter = tiny_runs.Starter('streaming', data_dir)

    def start(action):
        before = 'import os; os.setsid()\n' + tiny_runs.record(2, action)
        return starter.start(tmp_path, '--config.workers=1', before=before)

    output = tiny_runs.finish(start('os.killpg(0, signal.SIGINT)'), 75)
    assert 'stopped at step' in output and 'Traceback' not in output

    killed = start(KILL)
    tiny_runs.finish(killed, -signal.SIGKILL)
    with pytest.raises(ProcessLookupError):
        for _ in range(10 * tiny_runs.HANGS):
            os.killpg(killed.pid, 0)
            time.sleep(0.1)


@pytest.mark.parametrize('log_every', [1, 7])
@pytest.mark.slow
def test_exploding_loss_stops_and_says_at_which_step(log_every, data_dir, tmp_path):
    config = tiny_runs.get_config('resident')
    config.update_from_flattened_dict(
        {
            'connectivity': 'conv',
            'sleep.rule': 'none',
            'learning_rate': 1e8,
            'epochs': 1,
            'model.stage_sizes': (1,),
        }
    )
    config.data_dir, config.log_every, config.checkpoint_every = data_dir, log_every, 2
    with pytest.raises(UsageError, match=r'at step \d+ the loss or a parameter') as error:
        train.train_and_evaluate(config, str(tmp_path))
    *good, bad = tiny_runs.records(tmp_path)
    print(bad)
    assert f'at step {bad["step"]} ' in str(error.value)
    assert bad['train_loss'] in ('nan', 'inf')
    assert all(np.isfinite(record['train_loss']) for record in good)
    kept = tiny_runs.snapshot(tmp_path).state
    assert 0 < kept.step < bad['step']
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept))
