"""Compares finished runs by the config fields in which they differ: a table in Markdown.

    python -m experiments.compare --workdirs='runs/ablation/*'

Runs that differ only in their seed are one row, with the mean and standard deviation of their
accuracy. With --baseline=NAME, the name of a row, all others are compared with it over the seeds
that both have. Runs that are not finished are named and left out. With --out, the table is also
written to a folder, with a picture, and for other programs as JSON and CSV.
"""

from absl import flags

from experiments.common import cli
from experiments.reports import comparison, comparison_files
from lcn_jax.files import local_folder

WORKDIRS = flags.DEFINE_list(
    'workdirs',
    None,
    'Folders that experiments.train wrote, with * and ? as wildcards.',
    required=True,
)
BASELINE = flags.DEFINE_string('baseline', '', 'The name of a row to compare the others with.')
SHOW_WORKDIRS = flags.DEFINE_bool('show_workdirs', False, 'Name the workdirs of each row.')
OUT = flags.DEFINE_string('out', None, 'Folder for comparison.md, .json, .csv and .png.')


def main(argv):
    del argv
    out = local_folder('--out', OUT.value) if OUT.value else None
    runs, left_out = comparison.read(comparison.workdirs(WORKDIRS.value))
    found = comparison.compare(runs, left_out, BASELINE.value)
    if out:
        print(comparison_files.write(found, str(out), SHOW_WORKDIRS.value))
    else:
        print(comparison_files.markdown(found, SHOW_WORKDIRS.value), end='')


if __name__ == '__main__':
    cli.run(main)
