"""What happens to runs: kills, signals, full disks, exploding losses. All of it really happens."""

import os
import random
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

STEPS = {'resident': 100, 'streaming': 48}
SELDOM = '--config.checkpoint_every=1000'  # this may change from run to run


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    files = tiny_archives.imagenet_files(per_class=16)
    source = tiny_archives.write_folder(folder / 'in', files)
    prepare('imagenet2012', str(folder), str(source), str(source / 'labels.txt'))
    prepare('digits', str(folder))
    return str(folder)


@pytest.fixture(scope='module')
def resident(data_dir, cache):
    return tiny_runs.Starter('resident', data_dir, cache)


@pytest.fixture(scope='module')
def uninterrupted(resident, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('uninterrupted')
    resident.finish(workdir)
    return workdir


def kill_at_record(starter, workdir, number):
    process = starter.start(workdir)
    tiny_runs.wait_for_record(process, workdir, number)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize('kind', STEPS)
def test_killed_three_times_is_uninterrupted(kind, data_dir, cache, uninterrupted, tmp_path):
    """Across sleeps, which come every 7 steps."""
    starter = tiny_runs.Starter(kind, data_dir, cache)
    if kind == 'streaming':
        uninterrupted = tmp_path / 'uninterrupted'
        starter.finish(uninterrupted)
    numbers = sorted(random.sample(range(2, STEPS[kind] // 4 - 4), 3))
    print('killed at records', numbers)
    for number in numbers:
        kill_at_record(starter, tmp_path / 'killed', number)
    starter.finish(tmp_path / 'killed')
    tiny_runs.assert_same(tmp_path / 'killed', uninterrupted)
    steps = [record['step'] for record in tiny_runs.records(tmp_path / 'killed')]
    assert steps == sorted(set(steps)) and steps[-1] == STEPS[kind]


@pytest.mark.slow
def test_soak_twenty_kills(resident, tmp_path, record_property):
    """At random moments; a checkpoint is written at every step, so many fall into one."""
    longer = '--config.epochs=8'
    resident.finish(tmp_path / 'uninterrupted', longer, SELDOM)
    started = time.monotonic()
    workdir, writing, kills, startup = tmp_path / 'killed', 0, 0, 5.0
    while kills < 20:
        process = resident.start(workdir, longer, '--config.checkpoint_every=1')
        if kills % 2:  # while it trains
            latest = steps_of(workdir)
            while steps_of(workdir) == latest:
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.005)
            time.sleep(random.uniform(0, 0.4))
        else:  # or at any moment, the start included
            time.sleep(random.uniform(0, startup))
        process.kill()
        process.wait()
        assert process.returncode == -signal.SIGKILL
        kills += 1
        writing += any('tmp' in path.name for path in (workdir / 'checkpoints').glob('*'))
    resident.finish(workdir, longer, SELDOM)
    tiny_runs.assert_same(workdir, tmp_path / 'uninterrupted')
    assert writing
    record_property(
        'note',
        f'{kills} kills, {writing} of them while a checkpoint was being written, '
        f'in {time.monotonic() - started:.0f} s',
    )


def steps_of(workdir):
    return {path.name for path in (workdir / 'checkpoints').glob('*') if path.name.isdigit()}


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_exits_with_0(number, resident, uninterrupted, tmp_path):
    process = resident.start(tmp_path)
    tiny_runs.wait_for_record(process, tmp_path, 3)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    (last,) = (line for line in output.splitlines() if line.startswith('stopped'))
    step = int(last.split()[3])
    assert last == f'stopped at step {step} of 100; the same command continues from there.'
    assert str(step) in steps_of(tmp_path)
    assert f'workdir   {tmp_path}, from the start\n' in output
    output = resident.finish(tmp_path, SELDOM)
    assert f'workdir   {tmp_path}, continues from step {step}\n' in output
    shown = [int(number) for number in re.findall(r'  step (\d+)/100  ', output)]
    assert shown[-1] == 100 and min(shown) > step  # none of those from before
    assert output.splitlines()[-1] == (
        f'{tmp_path}/metrics.jsonl has the records, {tmp_path}/checkpoints the weights'
    )
    tiny_runs.assert_same(tmp_path, uninterrupted)


@pytest.mark.slow
def test_workers_live_as_long_as_the_run(data_dir, cache, tmp_path):
    """A terminal sends Ctrl-C to the whole process group; a killed run cannot tell its workers."""
    starter = tiny_runs.Starter('streaming', data_dir, cache)

    def start():
        process = starter.start(tmp_path, '--config.workers=1', start_new_session=True)
        tiny_runs.wait_for_record(process, tmp_path, len(tiny_runs.records(tmp_path)) + 1)
        return process

    process = start()
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert 'stopped at step' in output and 'Traceback' not in output

    process = start()
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.1)


@pytest.mark.slow
def test_full_disk_stops_with_one_line_and_keeps_the_last_checkpoint(
    resident, uninterrupted, tmp_path
):
    kill_at_record(resident, tmp_path, 6)
    before = steps_of(tmp_path)

    limit = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))'
    output = resident.finish(tmp_path, status=1, before=limit)
    error = output.splitlines()[-1]
    assert error.startswith(f'error: cannot write {tmp_path}/checkpoints')
    assert 'File too large' in error and 'Make room' in error
    assert steps_of(tmp_path) == before
    resident.finish(tmp_path)
    tiny_runs.assert_same(tmp_path, uninterrupted)


@pytest.mark.parametrize('log_every', [1, 7])
def test_exploding_loss_stops_and_says_at_which_step(log_every, data_dir, tmp_path):
    config = tiny_runs.get_config('resident')
    config.update_from_flattened_dict(
        {'connectivity': 'conv', 'sleep.rule': 'none', 'learning_rate': 1e8, 'epochs': 1}
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
