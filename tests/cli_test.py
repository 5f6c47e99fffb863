"""The binaries as their users meet them: mistakes end in one line, the demo in a table."""

import json
import os
import subprocess
import sys

import pytest
import tiny_runs

CONFIGS = 'experiments/configs'


@pytest.mark.parametrize(
    'flags, message',
    [
        ([f'--config={CONFIGS}/digits.py:dense'], "unknown kind 'dense'; known: conv, lc, "),
        (
            [f'--config={CONFIGS}/digits.py:lc', '--config.sleep.evry=2'],
            'error: there is no field config.sleep.evry: did you mean config.sleep.every?',
        ),
        (
            [f'--config={CONFIGS}/digits.py:lc', '--config.slep.every=2'],
            'error: there is no field config.slep.every: did you mean config.sleep.every?',
        ),
        (
            [f'--config={CONFIGS}/digits.py:lc', '--config.sleep=mean'],
            "error: flag --config.sleep=mean: Failed to parse 'mean' as a ConfigDict",
        ),
        (
            [f'--config={CONFIGS}/digits.py:lc_mean', '--config.sleep.pools=joined'],
            'error: config.sleep.pools is now config.pools.kind: change its name.',
        ),
        ([f'--config={CONFIGS}/digits.py:lc', '--config.epochs=many'], '--config.epochs=many'),
        ([f'--config={CONFIGS}/no_such.py:lc'], 'no config file'),
        ([f'--config={CONFIGS}/no_such.py:lc', '--config.epochs=2'], 'no config file'),
        ([f'--config={CONFIGS}/cifar10.py:lc', '--config.data_dir=/no/such'], 'no folder /no/such'),
        ([f'--config={CONFIGS}/cifar10.py:lc', '--config.data_dir=.'], 'has not been prepared'),
        ([f'--config={CONFIGS}/digits.py:lc', '--config.batch_size=61'], 'over 2 devices'),
    ],
    ids=[
        'kind',
        'field',
        'section',
        'whole section',
        'renamed',
        'value',
        'file',
        'override',
        'folder',
        'dataset',
        'batch',
    ],
)
@pytest.mark.slow
def test_a_mistake_is_one_line(flags, message, tmp_path):
    done = tiny_runs.call('train', *flags, f'--workdir={tmp_path}', devices=2)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert [line for line in lines if line.startswith('error: ')] == lines[-1:]
    assert message in lines[-1]
    assert 'Traceback' not in done.stderr


@pytest.mark.slow
def test_workdir_is_required():
    """In a process as users start it."""
    command = [sys.executable, '-m', 'experiments.train', f'--config={CONFIGS}/digits.py:lc']
    done = subprocess.run(command, cwd=tiny_runs.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith('error: ') and '--workdir' in done.stderr


@pytest.mark.parametrize(
    ('module', 'flags', 'empty'),
    [
        ('train', [f'--config={CONFIGS}/digits.py:lc', '--workdir='], 'workdir'),
        ('evaluate', ['--workdir', ''], 'workdir'),
        ('demo', ['--out='], 'out'),
        ('brain_score', ['--workdir=', '--assembly=x', '--images=x'], 'workdir'),
    ],
)
def test_a_flag_without_a_value_is_named(module, flags, empty):
    done = tiny_runs.call(module, *flags)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f'error: --{empty} is empty: give a value')


@pytest.mark.parametrize(
    ('module', 'names'),
    [
        ('train', ['config', 'workdir']),
        ('table', ['config', 'jobs', 'slurm_gres']),
        ('evaluate', ['workdir', 'checkpoint', 'data_dir']),
    ],
)
def test_help_names_the_flags_also_those_of_other_modules(module, names):
    done = tiny_runs.call(module, '--help')
    for name in names:
        assert f'\n  --{name}: ' in done.stdout, done.stdout


def test_a_run_without_permission_is_not_taken_for_none(tmp_path):
    tmp_path.chmod(0)
    done = tiny_runs.call('evaluate', f'--workdir={tmp_path}', before=tiny_runs.AS_A_USER)
    tmp_path.chmod(0o700)
    assert done.returncode == 1
    assert done.stderr.startswith(f'error: cannot read {tmp_path} (')


def test_options_of_a_rule_of_ones_own_are_set_by_flags():
    flags = ['--config.sleep.rule=module:half_way', '--config.sleep.half_way.strength=0.5']
    flags += ['--config.sleep.half_way.name=a b', '--config.model.width=3']
    program = """
from absl import app
from experiments.common import cli
config = cli.define_config('')
def main(argv):
    print(config.value.sleep.half_way.to_dict(), config.value.model.width)
cli.run(main)
"""
    command = [sys.executable, '-c', program, f'--config={CONFIGS}/digits.py:lc', *flags]
    done = subprocess.run(command, cwd=tiny_runs.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "{'name': 'a b', 'strength': 0.5} 3\n"


@pytest.mark.parametrize('flags', [[], ['--help']], ids=['in main', 'help'])
def test_a_pipe_that_nobody_reads_ends_a_binary_without_a_traceback(flags):
    program = (
        'from experiments.common import cli; '
        'cli.run(lambda argv: [print("line", flush=True) for _ in range(100_000)])'
    )
    command = [sys.executable, '-c', program, *flags]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, cwd=tiny_runs.ROOT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b'')


def test_ctrl_c_before_there_is_anything_to_save_leaves_no_traceback():
    program = (
        'import signal; from experiments.common import cli; '
        'signal.signal(signal.SIGINT, signal.default_int_handler); '  # a shell may have it ignored
        'cli.run(lambda argv: signal.raise_signal(signal.SIGINT))'
    )
    done = subprocess.run(
        [sys.executable, '-c', program],
        cwd=tiny_runs.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, '')


@pytest.mark.slow
def test_the_demo_makes_a_table_and_a_picture(tmp_path):
    """On the networks of tiny_config."""
    flags = f'--out={tmp_path}', '--seeds=2', '--epochs=1', '--jobs=1'
    smaller = """
from types import SimpleNamespace
import tiny_config
from experiments.configs import digits
tiny_config.digits = SimpleNamespace(get_config=digits.get_config)
digits.get_config = tiny_config.get_config
"""
    done = tiny_runs.call('demo', *flags, before=smaller)
    assert done.returncode == 0, done.stderr
    kinds = json.loads((tmp_path / 'results.json').read_text())['kinds']
    asleep = ['lc_hebbian_tiled', 'lc_hebbian_joined']
    assert list(kinds) == ['conv', 'lc', 'lc_translations', *asleep]
    for kind, result in kinds.items():
        assert len(result['test_accuracy']) == 2
        (row,) = [line for line in done.stdout.splitlines() if line.startswith(f'{kind} ')]
        assert f'{result["parameters"]:,}' in row
        assert f'{100 * result["test_accuracy_mean"]:.1f} ±' in row
    assert (tmp_path / 'report.png').read_bytes().startswith(b'\x89PNG')
