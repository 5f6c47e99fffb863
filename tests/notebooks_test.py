"""The notebooks run as scripts, two at a time, and every .ipynb holds the cells of its .py."""

import configparser
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest
import tiny_runs

from experiments import pair_notebooks

NOTEBOOKS = sorted(pair_notebooks.FOLDER.glob('*.py'))
each_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)


def test_all_are_there():
    assert [path.stem for path in NOTEBOOKS] == [
        '1_the_idea',
        '2_training',
        '3_your_own_rule',
        '4_convergence_and_circuit',
    ]


@each_notebook
def test_the_ipynb_holds_the_cells_of_the_py(path):
    pair = json.loads(path.with_suffix('.ipynb').read_text())
    there = [(cell['cell_type'], ''.join(cell['source'])) for cell in pair['cells']]
    assert there == pair_notebooks.cells(path.read_text()), (
        'edit the .py and run: python -m experiments.pair_notebooks'
    )
    assert pair == pair_notebooks.notebook(path.read_text())


def test_cells_of_a_percent_file():
    source = '# ---\n# a: 1\n# ---\n\n# %% [markdown]\n# # T\n#\n# text\n\n# %%\nx = 1  # %%\n\ny\n'
    expected = [('markdown', '# T\n\ntext'), ('code', 'x = 1  # %%\n\ny')]
    assert pair_notebooks.cells(source) == expected


@each_notebook
def test_it_opens_in_colab_and_installs_this_version(path):
    (_, head), (_, install), *_ = pair_notebooks.cells(path.read_text())
    assert f'/blob/main/experiments/notebooks/{path.stem}.ipynb)' in head
    setup = configparser.ConfigParser()
    setup.read(tiny_runs.ROOT / 'setup.cfg')
    assert f'lcn_jax@v{setup["metadata"]["version"]}' in install
    assert "if 'google.colab' in sys.modules" in install


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Every notebook as a process of its own on two devices: {path: its future}."""
    cache = tmp_path_factory.mktemp('cache')

    def start(path):
        folder = tmp_path_factory.mktemp(path.stem)
        return subprocess.run(
            [sys.executable, path],
            cwd=folder,
            env=tiny_runs.environment(2, cache) | {'MPLBACKEND': 'Agg', 'TMPDIR': str(folder)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    with ThreadPoolExecutor(2) as pool:
        yield {path: pool.submit(start, path) for path in NOTEBOOKS}


@pytest.mark.skipif(
    'LCN_NOTEBOOKS' not in os.environ, reason='minutes; set LCN_NOTEBOOKS=1 to run the notebooks'
)
@pytest.mark.slow
@each_notebook
def test_it_runs(path, runs):
    done = runs[path].result()
    assert done.returncode == 0, done.stderr
    assert f"'jax': '{jax.__version__}'" in done.stdout
    assert re.search(r"'devices': 2\b", done.stdout)
