"""Draws the training of runs: loss, accuracy and weight deviation by step, in one picture.

    python -m experiments.curves --workdirs=runs/digits/* --out=curves.png

Runs that differ only in their seed are one curve, the mean, in a band from the lowest to the
highest. Labels are the config fields in which the runs differ. Runs may still be training.
"""

from absl import flags

from experiments.common import cli
from experiments.reports import curves
from lcn_jax.files import local_folder, make_folder, writing

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
    figure = curves.draw(curves.read(WORKDIRS.value))
    make_folder(out.parent)
    with writing(out):
        figure.savefig(out, dpi=130)
    print(f'{out} is written')


if __name__ == '__main__':
    cli.run(main)
