"""What locally connected networks cost on many accelerators, with whole and divided kernels.

    python -m experiments.scale --out=docs/scale.md

Everything is computed from shapes, so it runs on any machine. Without --out the page is printed.
"""

from absl import flags

from experiments.common import cli
from experiments.reports import scale
from lcn_jax.files import local_folder, write_text

OUT = flags.DEFINE_string('out', None, 'Markdown file to write.')


def main(argv):
    del argv
    if OUT.value:
        write_text(local_folder('--out', OUT.value), scale.page())
    else:
        print(scale.page())


if __name__ == '__main__':
    cli.run(main)
