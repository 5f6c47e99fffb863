"""Draws the accuracy and weight deviation of networks that are convolutions until some epoch.

    python -m experiments.table --config=experiments/configs/digits.py --config.data_dir=DIR \\
        --paddings=0 --seeds=3 --out=runs/relax \\
        --rows=relax1,relax3,relax6,relax12,relax18,relax_never
    python -m experiments.relaxation --runs=runs/relax/digits-0 --out=relax.png
"""

from absl import flags

from experiments.common import cli, pictures
from experiments.reports import relaxation
from lcn_jax.files import local_folder

RUNS = flags.DEFINE_string(
    'runs', None, 'The folder of a column of experiments.table.', required=True
)
OUT = flags.DEFINE_string('out', None, 'The PNG to write.', required=True)


def main(argv):
    del argv
    out = local_folder('--out', OUT.value)
    pictures.write(relaxation.draw(relaxation.read(local_folder('--runs', RUNS.value))), out)


if __name__ == '__main__':
    cli.run(main)
