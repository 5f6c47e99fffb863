"""Can smooth maps and alike weights live together? Small All-TNNs with a penalty and with sleep.

    python -m experiments.smooth_and_alike --data_dir=DIR --out=experiments/results/smooth_and_alike

Networks of `all_tnn_small` on CIFAR-10, with the weight α of the smoothness penalty at 0, 1 and 10,
without sleep and with one after every tenth step in joined pools. Each finished run is measured:
how alike neighbours on the sheet are, by their weights and by what they prefer.

Trains what OUT/runs.json lacks, adds it, and writes OUT/table.md and OUT/picture.png; and
OUT/maps.png, with a layer of each network with seed 0. If it is stopped, the same command
continues, and begins with adding the runs that were finished.
"""

import itertools

from absl import flags
from ml_collections import ConfigDict

from experiments.common import cli, kept, pictures
from experiments.configs import all_tnn_small
from experiments.measure import smoothness
from experiments.reports import smooth_and_alike as report
from lcn_jax.files import local_folder

OUT = flags.DEFINE_string('out', 'experiments/results/smooth_and_alike', 'Folder for the results.')
RUNS = flags.DEFINE_string('runs', 'runs/smooth_and_alike', 'Folder for the workdirs.')
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Folder with CIFAR-10.')
SEEDS = flags.DEFINE_integer('seeds', 2, 'Networks at each point.', lower_bound=1)
EPOCHS = flags.DEFINE_integer('epochs', 6, 'Of training.', lower_bound=1)

# Chosen on 5,000 images that were held out, after two epochs with α = 1.
RATES = {'none': 1e-4, 'ws(10)': 3e-4}
KINDS = {'none': 'lc', 'ws(10)': 'lc_mean_joined'}
PICTURED = 'layer2'


def main(argv):
    del argv
    out = local_folder('--out', OUT.value)
    workdirs = local_folder('--runs', RUNS.value)
    runs = [
        ({'alpha': alpha, 'sleep': sleep, 'seed': seed}, config_of(alpha, sleep, seed))
        for seed, sleep, alpha in itertools.product(range(SEEDS.value), KINDS, report.ALPHAS)
    ]
    kept.complete(
        str(out), str(workdirs), runs, report.markdown, report.draw, smoothness.of_workdir
    )
    first = {
        (point['alpha'], point['sleep']): workdirs / kept.name(point)
        for point, _ in runs
        if point['seed'] == 0 and (workdirs / kept.name(point) / smoothness.MAPS).exists()
    }
    if len(first) == len(report.ALPHAS) * len(KINDS):
        maps = {key: smoothness.read(workdir, PICTURED) for key, workdir in first.items()}
        pictures.write(report.draw_maps(maps), out / 'maps.png')


def config_of(alpha: float, sleep: str, seed: int) -> ConfigDict:
    config = all_tnn_small.get_config(KINDS[sleep])
    config.penalty.weight, config.learning_rate, config.seed = alpha, RATES[sleep], seed
    config.model.dropout = 0.0  # six epochs do not overfit, and its random numbers take time
    config.epochs = config.evaluate_every = EPOCHS.value
    config.log_every, config.data_dir = 500, DATA_DIR.value
    return config


if __name__ == '__main__':
    cli.run(main)
