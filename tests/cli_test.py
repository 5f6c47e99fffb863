"""The binaries as their users meet them: mistakes end in one line, the demo in a table."""

import json
import subprocess
import sys

import pytest
import tiny_runs

CONFIGS = 'experiments/configs'


@pytest.mark.parametrize(
    'flags, message',
    [
        ([f'--config={CONFIGS}/digits.py:dense'], "unknown kind 'dense'; known: conv, lc, "),
        ([f'--config={CONFIGS}/digits.py:lc', '--config.sleep.evry=2'], 'no config field evry'),
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
    ids=['kind', 'field', 'renamed', 'value', 'file', 'override', 'folder', 'dataset', 'batch'],
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
    flags = f'--out={tmp_path}', '--seeds=2', '--epochs=1'
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
