"""Puts the tables of the paper's three datasets side by side, and shows how rates were chosen.

    python -m experiments.three_datasets

Reads what `experiments.table` has written, RESULTS/cifar10_small/table.json and
RESULTS/three_datasets/DATASET.json, and what `experiments.sweep` has, rates_DATASET.json there.
Writes side_by_side.md, table.md, rates.md and picture.png beside them.
"""

from absl import flags

from experiments.common import cli, pictures
from experiments.reports import table, three_datasets
from lcn_jax.files import local_folder, write_text

RESULTS = flags.DEFINE_string('results', 'experiments/results', 'The folder of the results.')


def main(argv):
    del argv
    results = local_folder('--results', RESULTS.value)
    runs = three_datasets.read(results)
    report = three_datasets.side_by_side(runs, three_datasets.TITLES)
    folder = results / 'three_datasets'
    write_text(folder / 'side_by_side.md', three_datasets.markdown(report))
    write_text(folder / 'table.md', table.markdown(runs))
    write_text(folder / 'rates.md', three_datasets.rates_markdown(three_datasets.rates(results)))
    pictures.save(table.plot(report), folder / 'picture.png')
    print(three_datasets.markdown(report))


if __name__ == '__main__':
    cli.run(main)
