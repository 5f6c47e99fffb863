"""Writes the .ipynb of every notebook anew from its .py.

    python -m experiments.pair_notebooks

The .py are what to edit, read in a diff and run as a script, in jupytext's percent format. The
.ipynb are for Colab, and hold no outputs. They have two things more: a cell that installs lcn_jax
where it is missing, and a badge that opens the notebook in Colab. Both come from `url` in
setup.cfg, the address of the repository: while it is empty, there is no badge, and the cell
installs a wheel (`make wheel`) that lies beside the notebook.
"""

import configparser
import json
import pathlib
import re

from experiments.common import cli

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / 'experiments' / 'notebooks'
BADGE = 'https://colab.research.google.com/assets/colab-badge.svg'
COLAB = 'https://colab.research.google.com/github'
INSTALL = """\
import importlib.util

if importlib.util.find_spec('lcn_jax') is None:{hint}
    %pip install --quiet {source}"""
WHEEL_HINT = """
    # `make wheel` writes this file to dist/: upload it to Colab, beside the notebook."""


def main(argv):
    del argv
    url, version = project()
    for path in sorted(FOLDER.glob('*.py')):
        pair = path.with_suffix('.ipynb')
        pair.write_text(dumps(notebook(path.read_text(), path.stem, url, version)))
        print(f'{pair} is written')


def project() -> tuple[str, str]:
    """url and version in setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    return setup['metadata']['url'], setup['metadata']['version']


def cells(source: str) -> list[tuple[str, str]]:
    """('markdown' or 'code', text) of each cell of a file in percent format."""
    parts = re.split(r'^# %%(.*)\n', source, flags=re.MULTILINE)[1:]
    found = []
    for mark, text in zip(parts[::2], parts[1::2]):
        text = text.strip('\n')
        if mark == ' [markdown]':
            found.append(('markdown', re.sub('^# ?', '', text, flags=re.MULTILINE)))
        else:
            found.append(('code', text))
    return found


def install_cell(url: str, version: str) -> str:
    """The code that installs lcn_jax, from the tag of this version or from a wheel."""
    if url:
        return INSTALL.format(hint='', source=f'git+{url}@v{version}')
    return INSTALL.format(hint=WHEEL_HINT, source=f'lcn_jax-{version}-py3-none-any.whl')


def with_badge(head: str, name: str, url: str, version: str) -> str:
    """The first cell, with a badge under its title if the project is on GitHub, as Colab wants."""
    if not url.startswith('https://github.com/'):
        return head
    repository = url.removeprefix('https://github.com/').removesuffix('.git')
    notebook = f'{repository}/blob/v{version}/experiments/notebooks/{name}.ipynb'
    title, _, text = head.partition('\n')
    return f'{title}\n\n[![Open in Colab]({BADGE})]({COLAB}/{notebook})\n{text}'


def notebook(source: str, name: str, url: str, version: str) -> dict:
    """The notebook, as the JSON of nbformat 4.4, of the file NAME.py in percent format."""
    (_, head), *rest = cells(source)
    head = with_badge(head, name, url, version)
    return {
        'cells': [
            {'cell_type': kind, 'metadata': {}}
            | ({'execution_count': None, 'outputs': []} if kind == 'code' else {})
            | {'source': text.splitlines(keepends=True)}
            for kind, text in [('markdown', head), ('code', install_cell(url, version)), *rest]
        ],
        'metadata': {
            'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'},
            'language_info': {'name': 'python'},
        },
        'nbformat': 4,
        'nbformat_minor': 4,
    }


def dumps(notebook: dict) -> str:
    return json.dumps(notebook, indent=1, ensure_ascii=False) + '\n'


if __name__ == '__main__':
    cli.run(main)
