"""The notebooks run, and every .ipynb holds the cells of its .py."""

import json
import re
from types import SimpleNamespace
from unittest import mock

import jax
import pytest
import tiny_runs
from IPython.core.inputtransformer2 import TransformerManager

from experiments import pair_notebooks

NOTEBOOKS = sorted(pair_notebooks.FOLDER.glob('*.py'))
PICTURES = {  # that each shows
    '1_the_idea': 4,
    '2_training': 1,
    '3_your_own_rule': 2,
    '4_convergence_and_circuit': 3,
    '5_neurons': 2,
    '6_laboratory': 3,
}
SMALLER = {
    r'(?<=config\.epochs = )\d+': '2',
    r'(?<=config\.model\.stage_sizes, config\.model\.width = )\(1,\), 8': '(), 2',
    r'(?<=config\.model\.stage_sizes, config\.model\.width = )\(1, 1, 1\), 8': '(1, 1), 4',
    r'(?<=normal\(pattern_key, \()1\d00': '100',  # patterns that are shown to a circuit
    r'\b300\b': '120',  # images that neurons see
}
each_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)


def test_all_are_there():
    assert [path.stem for path in NOTEBOOKS] == list(PICTURES)


@each_notebook
def test_the_ipynb_is_that_of_the_py(path):
    pair = json.loads(path.with_suffix('.ipynb').read_text())
    made = pair_notebooks.notebook(path.read_text(), path.stem, *pair_notebooks.project())
    assert pair == made, 'edit the .py and run: python -m experiments.pair_notebooks'


@each_notebook
def test_it_imports_what_the_wheel_has(path):
    """Colab has no copy of the repository, so the folder `experiments` is not there."""
    imports = [line for line in path.read_text().splitlines() if re.match('(from|import) ', line)]
    assert any('lcn_jax' in line for line in imports)
    assert not any('experiments' in line for line in imports)


def test_cells_of_a_percent_file():
    source = '# ---\n# a: 1\n# ---\n\n# %% [markdown]\n# # T\n#\n# text\n\n# %%\nx = 1  # %%\n\ny\n'
    expected = [('markdown', '# T\n\ntext'), ('code', 'x = 1  # %%\n\ny')]
    assert pair_notebooks.cells(source) == expected


SOURCE = '# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1\n'


def texts(notebook):
    return [''.join(cell['source']) for cell in notebook['cells']]


def test_without_an_address_a_wheel_is_installed_and_there_is_no_badge():
    head, install, rest = texts(pair_notebooks.notebook(SOURCE, 'name', '', '1.2.3'))
    assert (head, rest) == ('# Title\n\nText.', 'x = 1')
    assert '%pip install --quiet lcn_jax-1.2.3-py3-none-any.whl' in install
    assert '`make wheel`' in install


@pytest.mark.parametrize('url', ['https://github.com/a/b', 'https://github.com/a/b.git'])
def test_with_an_address_the_tag_is_installed_and_the_badge_opens_it(url):
    head, install, rest = texts(pair_notebooks.notebook(SOURCE, 'name', url, '1.2.3'))
    page = 'https://colab.research.google.com/github/a/b/blob/v1.2.3/experiments/notebooks'
    assert head.startswith('# Title\n\n[![Open in Colab](')
    assert head.endswith(f'({page}/name.ipynb)\n\nText.')
    assert f'%pip install --quiet git+{url}@v1.2.3' in install
    assert 'wheel' not in install and rest == 'x = 1'


def test_elsewhere_than_on_github_there_is_no_badge():
    head, install, _ = texts(pair_notebooks.notebook(SOURCE, 'name', 'https://b.org/a', '1.2.3'))
    assert 'colab' not in head and 'git+https://b.org/a@v1.2.3' in install


def test_the_install_cell_runs_where_the_package_is_missing_only():
    """As IPython sees it: %pip is a call of the shell."""
    source = TransformerManager().transform_cell(pair_notebooks.install_cell('', '1.2.3'))

    def installed(found):
        calls = []
        shell = SimpleNamespace(run_line_magic=lambda *call: calls.append(call))
        with mock.patch('importlib.util.find_spec', lambda name: found):
            exec(source, {'get_ipython': lambda: shell})
        return calls

    assert installed(found=None) == [('pip', 'install --quiet lcn_jax-1.2.3-py3-none-any.whl')]
    assert installed(found='a spec') == []


@pytest.mark.slow
@each_notebook
def test_it_runs_and_shows_its_pictures(path, tmp_path):
    """Cell by cell, as for a person, but smaller networks learn for less time.

    The one about training gets two devices.
    """
    devices = 2 if path.stem == '2_training' else 1
    notebook = json.loads(path.with_suffix('.ipynb').read_text())
    for cell in notebook['cells']:
        source = ''.join(cell['source'])
        for pattern, smaller in SMALLER.items():
            source = re.sub(pattern, smaller, source)
        cell['source'] = source
    (tmp_path / path.name).write_text(json.dumps(notebook))
    fork = tiny_runs.Fork(
        'notebook_shell',
        [tmp_path / path.name, tmp_path / 'shown.json'],
        devices,
        f'import os, tempfile; os.chdir({str(tmp_path)!r}); tempfile.tempdir = {str(tmp_path)!r}',
        together=True,
    )
    tiny_runs.finish(fork, 0)
    shown = json.loads((tmp_path / 'shown.json').read_text())
    assert f', JAX {jax.__version__}, {devices} × ' in shown['text']
    assert shown['pictures'] == PICTURES[path.stem]
