"""The notebooks run, and every .ipynb holds the cells of its .py."""

import configparser
import json
import time

import jax
import nbclient
import nbformat
import pytest
import tiny_runs

from experiments import pair_notebooks

NOTEBOOKS = sorted(pair_notebooks.FOLDER.glob('*.py'))
PICTURES = {  # that each shows
    '1_the_idea': 3,
    '2_training': 1,
    '3_your_own_rule': 2,
    '4_convergence_and_circuit': 3,
    '5_neurons': 2,
}
each_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)


def test_all_are_there():
    assert [path.stem for path in NOTEBOOKS] == list(PICTURES)


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


@pytest.mark.slow
@each_notebook
def test_it_runs_and_shows_its_pictures(path, tmp_path, record_property):
    """In a kernel, cell by cell, as for a person. The one about training gets two devices."""
    devices = 2 if path.stem == '2_training' else 1
    notebook = nbformat.read(path.with_suffix('.ipynb'), as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=tiny_runs.HANGS,
        kernel_name='python3',
        resources={'metadata': {'path': tmp_path}},
    )
    started = time.monotonic()
    client.execute(env=tiny_runs.environment(devices) | {'TMPDIR': str(tmp_path)})
    record_property('note', f'{time.monotonic() - started:.0f} s')

    outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    text = ''.join(output['text'] for output in outputs if output['output_type'] == 'stream')
    assert f"'jax': '{jax.__version__}'" in text
    assert f"'devices': {devices}," in text
    shown = [output for output in outputs if 'image/png' in output.get('data', ())]
    assert len(shown) == PICTURES[path.stem]
