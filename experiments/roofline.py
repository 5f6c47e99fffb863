"""A lower bound on the time of a training step on accelerators, from its FLOPs and bytes.

    python -m experiments.roofline --out=docs/roofline.md

Everything is computed from shapes, so it runs on any machine. Without --out the page is printed.
"""

from absl import flags

from experiments.common import cli
from experiments.reports import roofline
from lcn_jax.files import local_folder, write_text

OUT = flags.DEFINE_string('out', None, 'Markdown file to write.')


def main(argv):
    del argv
    if OUT.value:
        write_text(local_folder('--out', OUT.value), roofline.page())
    else:
        print(roofline.page())


if __name__ == '__main__':
    cli.run(main)
