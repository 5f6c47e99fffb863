"""Many runs on a real SLURM: LCN_SLURM=1, as root, with Debian's slurmctld, slurmd, slurm-client.

The SLURM has one node, this machine, and ends with the tests.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import tiny_runs

if os.environ.get('LCN_SLURM') != '1':
    pytest.skip('LCN_SLURM=1 tries a real SLURM', allow_module_level=True)

CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES
AuthType=auth/none
CryptoType=crypto/none
SlurmUser=root
SlurmdUser=root
SlurmctldPort={port}
SlurmdPort={next}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
"""
LONG = '--epochs=40', '--config.checkpoint_every=20'  # enough to be stopped in between


def until(is_so, what):
    """Waits for something to be so, and returns it."""
    for _ in range(tiny_runs.HANGS):
        if found := is_so():
            return found
        time.sleep(1)
    pytest.fail(f'{what} in {tiny_runs.HANGS} s')


def of_slurm(command, *flags):
    return subprocess.run([command, *flags], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope='module', autouse=True)
def slurm(tmp_path_factory):
    folder = tmp_path_factory.mktemp('slurm')
    for name in ('state', 'spool'):
        (folder / name).mkdir()
    host, cpus = socket.gethostname().partition('.')[0], max(2, os.cpu_count() or 1)
    config = folder / 'slurm.conf'
    config.write_text(CONFIG.format(host=host, cpus=cpus, folder=folder, port=26817, next=26818))
    os.environ['SLURM_CONF'] = str(config)
    try:
        subprocess.run(['slurmctld', '-c'], check=True)
        subprocess.run(['slurmd'], check=True)
        until(lambda: 'idle' in of_slurm('sinfo', '-h', '-o', '%T'), 'no node is idle')
        yield
        subprocess.run(['scancel', '--user=root'], check=False)
        until(lambda: not of_slurm('squeue', '-h', '-t', 'RUNNING,COMPLETING'), 'tasks do not end')
    finally:
        del os.environ['SLURM_CONF']
        for path in folder.glob('*.pid'):
            os.kill(int(path.read_text()), signal.SIGTERM)


def table(out, *flags, status=0):
    command = [
        sys.executable, '-m', 'experiments.table', '--config=tests/tiny_config.py',
        f'--out={out}', f'--config.data_dir={out.parent}/data', '--rows=conv,lc', '--paddings=0',
        '--seeds=2', *LONG, *flags,
    ]  # fmt: skip
    process = tiny_runs.Process(command, env=tiny_runs.environment(1), cwd=tiny_runs.ROOT)
    return tiny_runs.finish(process, status)


def measured(out):
    report = json.loads((out / 'table.json').read_text())
    for cell in report['cells']['digits-0'].values():
        del cell['seconds']
    return report


def trained_now(out):
    """The processes that train runs of which a checkpoint is written, by their tasks."""
    found = {}
    for lock in out.glob('digits-0/*/lock'):
        steps = [path.name for path in lock.parent.glob('checkpoints/*') if path.name.isdigit()]
        process = int(re.findall(r'process (\d+) on', lock.read_text() or 'process 0 on')[0])
        variables = pathlib.Path(f'/proc/{process}/environ')
        if steps and variables.exists() and not (lock.parent / 'done.json').exists():
            task = re.findall(r'SLURM_ARRAY_TASK_ID=(\d+)', variables.read_text())
            found |= dict.fromkeys(task, process)
    return found


def two_or_more(found):
    return found if len(found) > 1 else {}


@pytest.mark.slow
def test_the_table_of_an_array_is_that_of_one_process(tmp_path, record_property):
    alone, out = tmp_path / 'alone', tmp_path / 'out'
    table(alone, '--jobs=1')
    printed = table(out, '--cluster=slurm', '--jobs=4', '--slurm_partition=cpu', '--slurm_time=60')
    job = re.findall(r'^4 tasks are submitted, from (\d+)_0 on;', printed)[0]
    of_tasks = until(
        lambda: found if len(found := trained_now(out)) > 1 else {}, 'two do not train'
    )
    (stopped, _), (_, killed), *_ = of_tasks.items()
    os.kill(killed, signal.SIGKILL)
    # It tries again for a while, and complains that the task is in the queue by then.
    subprocess.run(['scancel', '--signal=TERM', f'{job}_{stopped}'], check=False)
    until((out / 'table.png').exists, 'there is no table')
    assert measured(out) == measured(alone)
    for workdir in alone.glob('digits-0/*'):
        assert tiny_runs.records(workdir) == tiny_runs.records(out / 'digits-0' / workdir.name)
    log = (out / f'tasks/{job}_{stopped}_0_log.out').read_text()
    assert re.search(r'stopped; the same command continues|stopped at step', log), log
    assert f'Requeued job {job}_{stopped}' in log
    record_property('note', f'tasks {of_tasks}; {log}')


@pytest.mark.slow
def test_a_partition_that_does_not_exist_is_one_line(tmp_path):
    flags = '--cluster=slurm', '--slurm_partition=none', '--slurm_options=comment=x'
    *_, last = table(tmp_path / 'out', *flags, status=1).splitlines()
    assert last.startswith('error: SLURM refuses the tasks: ') and 'partition' in last


@pytest.mark.slow
def test_one_run_of_two_tasks(tmp_path):
    """On two hosts it would be the same."""
    command = [
        shutil.which('srun'), '-n2', sys.executable, '-m', 'experiments.train', '--multi_process',
        '--config=tests/tiny_config.py:lc_mean', f'--config.data_dir={tmp_path}/data',
        f'--workdir={tmp_path}/run',
    ]  # fmt: skip
    process = tiny_runs.Process(command, env=tiny_runs.environment(1), cwd=tiny_runs.ROOT)
    assert 'devices   2 × cpu' in tiny_runs.finish(process, 0)
    assert tiny_runs.records(tmp_path / 'run')[-1]['epoch'] == 1
