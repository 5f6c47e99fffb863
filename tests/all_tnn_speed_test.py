"""The All-TNN beside that of Keras 2: what is measured, with and without a Python that has it.

LCN_KERAS=PYTHON, an interpreter with Keras 2, also compares what is computed there with ours.
"""

import stat
import sys

import pytest
import tiny_runs


def interpreter(folder, program):
    """A file that runs `program` in place of the one that it is given."""
    path = folder / 'python'
    path.write_text(f'#!{sys.executable}\n{program}\n')
    path.chmod(stat.S_IRWXU)
    return path


@pytest.mark.parametrize('program', [None, 'raise SystemExit(1)'], ids=['absent', 'no Keras'])
def test_a_python_without_keras_2_is_one_line(tmp_path, program):
    path = interpreter(tmp_path, program) if program else tmp_path / 'python'
    done = tiny_runs.call('benchmark', '--quick', f'--keras={path}')
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f'error: --keras={path} ')
    assert 'Traceback' not in done.stderr
