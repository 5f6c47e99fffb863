"""Writes the .ipynb of every notebook from its .py.

    python -m experiments.pair_notebooks

Edit the .py: it is in jupytext's percent format, can be read in a diff and runs as a script. The
.ipynb is for Colab and has no outputs. It has two things more: a cell that installs lcn_jax where
it is missing, and a badge that opens the notebook in Colab. Both use the address of the repository,
`url` in setup.cfg. While it is empty, there is no badge, and the cell installs a wheel that lies
beside the notebook (`make wheel`). jupytext has neither, and gives the cells other ids every time.
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
        made = notebook(path.read_text(), path.stem, url, version)
        pair.write_text(json.dumps(made, indent=1, ensure_ascii=False) + '\n')
        print(f'{pair} is written')


def project() -> tuple[str, str]:
    """The url and the version in setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    return setup['metadata']['url'], setup['metadata']['version']


def cells(source: str) -> list[tuple[str, str]]:
    """('markdown' or 'code', text) for each cell of a file in percent format."""
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
    """Code that installs lcn_jax, from the tag of this version or from a wheel."""
    if url:
        return INSTALL.format(hint='', source=f'git+{url}@v{version}')
    return INSTALL.format(hint=WHEEL_HINT, source=f'lcn_jax-{version}-py3-none-any.whl')


def with_badge(head: str, name: str, url: str, version: str) -> str:
    """The first cell, with a badge below its title if the project is on GitHub, as Colab needs."""
    if not url.startswith('https://github.com/'):
        return head
    repository = url.removeprefix('https://github.com/').removesuffix('.git')
    notebook = f'{repository}/blob/v{version}/experiments/notebooks/{name}.ipynb'
    title, _, text = head.partition('\n')
    return f'{title}\n\n[![Open in Colab]({BADGE})]({COLAB}/{notebook})\n{text}'


def notebook(source: str, name: str, url: str, version: str) -> dict:
    """The notebook for the file NAME.py in percent format, as JSON of nbformat 4.4."""
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


if __name__ == '__main__':
    cli.run(main)
