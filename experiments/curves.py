"""Draws the training of runs: loss, accuracy and weight deviation by step, in one picture.

    python -m experiments.curves --workdirs='runs/digits/*' --out=curves.png

Runs that differ only in their seed are one curve, the mean, in a band from the lowest to the
highest. Labels are the config fields in which the runs differ. Runs may still be training.
"""

from absl import flags

from experiments.common import cli, pictures
from experiments.reports import curves
from lcn_jax.files import local_folder

WORKDIRS = flags.DEFINE_list(
    'workdirs',
    None,
    'Folders that experiments.train wrote, with * and ? as wildcards.',
    required=True,
)
OUT = flags.DEFINE_string('out', None, 'The PNG to write.', required=True)


def main(argv):
    del argv
    out = local_folder('--out', OUT.value)
    pictures.write(curves.draw(curves.read(WORKDIRS.value)), out)


if __name__ == '__main__':
    cli.run(main)
