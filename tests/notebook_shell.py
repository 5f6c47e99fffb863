"""Runs a notebook's cells in this process: `notebook_shell NOTEBOOK OUT`.

OUT becomes a JSON file with what the cells print and how many pictures they show.
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib_inline.backend_inline import configure_inline_support


def main(notebook: str, out: str) -> None:
    shell = InteractiveShell.instance()
    shell.history_manager.enabled = False
    plt.switch_backend('module://matplotlib_inline.backend_inline')
    configure_inline_support(shell, 'inline')
    text, pictures = '', 0
    for cell in json.loads(Path(notebook).read_text())['cells']:
        if cell['cell_type'] == 'code':
            with capture_output() as shown:
                result = shell.run_cell(''.join(cell['source']))
            result.raise_error()
            text += shown.stdout
            pictures += sum('image/png' in output.data for output in shown.outputs)
    Path(out).write_text(json.dumps({'text': text, 'pictures': pictures}))


if __name__ == '__main__':
    main(*sys.argv[1:])
