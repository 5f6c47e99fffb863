"""The All-TNN beside that of Keras 2: what is measured, and the page's table.

With LCN_KERAS=PYTHON, an interpreter that has Keras 2, the benchmark runs it; else a program that
answers in its place.
"""

import json
import os
import stat
import sys

import pytest
import tiny_runs

from experiments.measure import all_tnn_steps
from experiments.measure.layers import distinct_layers
from experiments.reports import all_tnn_speed

RESULTS = tiny_runs.ROOT / 'experiments/results/all_tnn_speed'
ANSWERS = """
import json, sys
for line in sys.stdin:
    function, _ = json.loads(line)
    versions = {'tensorflow': '2.15.1', 'keras': '2.15.0'}
    print(json.dumps(versions if function == 'versions' else 1), flush=True)
"""


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


@pytest.mark.slow
def test_a_quick_run_writes_numbers_and_a_table(tmp_path):
    python = os.environ.get('LCN_KERAS') or interpreter(tmp_path, ANSWERS)
    out = tmp_path / 'quick.json'
    done = tiny_runs.call('benchmark', '--quick', f'--keras={python}', f'--out={out}')
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert out.with_suffix('.md').read_text().strip() == all_tnn_speed.markdown(report)
    plain, penalised, *layers = report['records']
    assert len(layers) == 2
    for record in (plain, *layers):
        assert list(record['seconds']) == ['lcn_jax', '1', '2', '3']
    assert list(penalised['seconds']) == ['lcn_jax', '1']
    assert min(s for record in report['records'] for s in record['seconds'].values()) > 0


def test_kernels_of_the_published_network_by_hand():
    """Of its first layer: 150×150×3 inputs, 48×48×64 outputs, each of which sees 7×7×3."""
    shapes = distinct_layers(all_tnn_steps.published())
    assert len(shapes) == 6
    inputs, outputs, seen = 150 * 150 * 3, 48 * 48 * 64, 7 * 7 * 3
    assert all_tnn_steps.kernel_sizes(shapes[:1]) == {
        '1': 4 * outputs * seen,
        '2': 4 * inputs * outputs,
        '3': 128 * outputs * seen,
    }


def test_what_was_not_run_has_its_size_and_what_was_not_asked_nothing():
    """The times are multiples of ours."""
    common = {'commit': 'abc', 'cpus': 2, 'cpu': 'EPYC', 'jax': '0.10.1', 'batch_size': 16}
    keras = {'tensorflow': '2.15.1', 'keras': '2.15.0', 'most_bytes': 5e9}
    records = [
        {
            'what': 'a step',
            'seconds': {'lcn_jax': 0.2, '1': 3.0},
            'kernel_bytes': {'1': 1, '2': 52e9},
        }
    ]
    first, _, row, *_, last = all_tnn_speed.markdown(
        common | {'keras': keras, 'records': records}
    ).splitlines()
    assert 'batch of 16' in first
    assert row == '| a step | 200 ms | 3,000 ms (15.0×) | (52.0 GB) |  |'
    assert 'Commit abc; 2 cores of EPYC' in last and '5.0 GB' in last


def test_tables_of_the_page_are_made_of_the_numbers():
    page = (tiny_runs.ROOT / 'docs/all_tnn.md').read_text()
    for path in RESULTS.glob('*.json'):
        made = all_tnn_speed.markdown(json.loads(path.read_text()))
        assert path.with_suffix('.md').read_text().strip() == made
        assert made in page, f'put {path.with_suffix(".md")} into docs/all_tnn.md'
