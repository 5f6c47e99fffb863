"""Evaluates a checkpoint of a run and prints its step and metrics as one line of JSON.

    python -m experiments.evaluate --workdir=runs/cifar10 --checkpoint=best

The metrics equal those that training recorded at that step, if it evaluated there. --dataset
evaluates on another prepared dataset of the same classes. --confusion=FOLDER writes the confusion
matrix, with the accuracy of every class, to FOLDER/confusion.csv, and its picture to
FOLDER/confusion.png.
"""

import json

from absl import flags

from experiments.common import cli, trained
from experiments.reports import confusion
from lcn_jax.files import local_folder, make_folder, write_text, writing

DATASET = flags.DEFINE_string('dataset', None, "Instead of the run's own; of the same classes.")
CONFUSION = flags.DEFINE_string('confusion', None, 'Folder for the confusion matrix.')


def main(argv):
    del argv
    network = trained.load()
    scores = network.evaluate(DATASET.value)
    print(json.dumps({'step': network.step, **scores.metrics}))
    if CONFUSION.value:
        folder = make_folder(local_folder('--confusion', CONFUSION.value))
        title = f'{DATASET.value or network.config.dataset} at step {network.step}'
        write_text(folder / 'confusion.csv', confusion.as_csv(scores))
        with writing(folder / 'confusion.png'):
            confusion.draw(scores, title).savefig(folder / 'confusion.png', dpi=130)


if __name__ == '__main__':
    cli.run(main)
