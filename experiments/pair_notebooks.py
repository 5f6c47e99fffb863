"""Writes the .ipynb of every notebook anew from its .py.

    python -m experiments.pair_notebooks

The .py are what to edit, read in a diff and run as a script; they are in jupytext's percent format,
so `jupytext --sync` keeps the pairs as well. The .ipynb are for Colab, and hold no outputs.
"""

import json
import pathlib
import re

from experiments.common import cli

FOLDER = pathlib.Path(__file__).parent / 'notebooks'


def main(argv):
    del argv
    for path in sorted(FOLDER.glob('*.py')):
        pair = path.with_suffix('.ipynb')
        pair.write_text(dumps(notebook(path.read_text())))
        print(f'{pair} is written')


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


def notebook(source: str) -> dict:
    """The notebook, as the JSON of nbformat 4.4, of a file in percent format."""
    return {
        'cells': [
            {'cell_type': kind, 'metadata': {}}
            | ({'execution_count': None, 'outputs': []} if kind == 'code' else {})
            | {'source': text.splitlines(keepends=True)}
            for kind, text in cells(source)
        ],
        'metadata': {
            'jupytext': {'formats': 'ipynb,py:percent'},
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
