"""Compares finished runs by the config fields in which they differ: a table in Markdown.

    python -m experiments.compare --workdirs=runs/ablation/*

Runs that differ only in their seed are one row, with the mean and standard deviation of their
accuracy. With --out, the table and a picture of it are also written to a folder.
"""

from absl import flags

from experiments.common import cli
from experiments.reports import comparison
from lcn_jax.files import local_folder, make_folder, write_text, writing

WORKDIRS = flags.DEFINE_list(
    'workdirs',
    None,
    'Folders that experiments.train wrote, with * and ? as wildcards.',
    required=True,
)
OUT = flags.DEFINE_string('out', None, 'Folder for comparison.md and comparison.png.')


def main(argv):
    del argv
    out = local_folder('--out', OUT.value) if OUT.value else None
    compared = comparison.compare(comparison.read(WORKDIRS.value))
    table = comparison.markdown(compared)
    print(table)
    if out:
        make_folder(out)
        write_text(out / 'comparison.md', table + '\n')
        picture = out / 'comparison.png'
        with writing(picture):
            comparison.plot(compared).savefig(picture, dpi=150)
        print(f'\n{out}/comparison.md and comparison.png are written')


if __name__ == '__main__':
    cli.run(main)
