"""The paper's effect on real digits: five kinds of network, a table and a picture, in minutes.

    python -m experiments.demo --out=runs/demo

Writes OUT/results.json and OUT/report.png, and the records of each run under OUT.
"""

import os
import statistics
import time

from absl import flags

from experiments.common import cli
from experiments.common.provenance import provenance
from experiments.configs import digits
from experiments.reports.style import COLOURS
from lcn_jax.files import local_folder, to_json, write_text, writing
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.metrics import awake
from lcn_jax.training.progress import Progress
from lcn_jax.training.train import train_and_evaluate

OUT = flags.DEFINE_string('out', 'runs/demo', 'Folder for the results.')
SEEDS = flags.DEFINE_integer('seeds', 3, 'Networks of each kind.', lower_bound=1)
EPOCHS = flags.DEFINE_integer('epochs', None, 'Instead of those of the config.', lower_bound=1)

KINDS = ('conv', 'lc', 'lc_translations', 'lc_hebbian_tiled', 'lc_hebbian_joined')


def main(argv):
    del argv
    local_folder('--out', OUT.value)
    started = time.perf_counter()
    runs = {kind: train(kind) for kind in KINDS}
    results = {kind: summary(runs[kind]) for kind in KINDS}
    print(f'\ntrained in {time.perf_counter() - started:.0f} s\n')
    print(table(results))
    write_json(results)
    draw(runs)
    print(f'\n{OUT.value}/results.json and {OUT.value}/report.png are written')


def train(kind: str) -> list[list[dict]]:
    """Trains a network of each seed; returns their records, the last with 'parameters'."""
    config = digits.get_config(kind)
    config.data_dir = os.path.join(OUT.value, 'data')
    config.checkpoint_every = 0  # a run takes seconds
    if EPOCHS.value is not None:
        config.epochs = EPOCHS.value
    experiment = Experiment.create(config)
    runs = []
    for seed in range(SEEDS.value):
        config.seed = seed
        records = Records(Progress(f'{kind}, seed {seed}'))
        workdir = os.path.join(OUT.value, f'{kind}-{seed}')
        result = train_and_evaluate(config, workdir, records, experiment)
        runs.append([*records[:-1], result])
    return runs


class Records(list):
    """The records of a run, which are also shown."""

    def __init__(self, show):
        super().__init__()
        self._show = show

    def __call__(self, record):
        self.append(record)
        self._show(record)


def summary(records_of_seeds: list[list[dict]]) -> dict:
    """Means over seeds at the end of training, and the sample standard deviation of accuracy.

    If training ends in a sleep, the weight deviation is the one before it: how much of the sharing
    learning has undone.
    """
    last = [records[-1] for records in records_of_seeds]
    accuracies = [record['test_top1'] for record in last]
    deviations = [awake(record, 'weight_deviation') for record in last]
    return {
        'parameters': last[0]['parameters'],
        'test_accuracy_mean': statistics.mean(accuracies),
        'test_accuracy_std': statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        'test_accuracy': accuracies,
        'weight_deviation': None if deviations[0] is None else statistics.mean(deviations),
        'seconds': statistics.mean(record['seconds'] for record in last),
    }


def table(results: dict[str, dict]) -> str:
    lines = [
        f'{"kind":<17} {"parameters":>10} {"test accuracy %":>16} {"deviation":>10} {"s / run":>8}'
    ]
    for kind, result in results.items():
        std, deviation = result['test_accuracy_std'], result['weight_deviation']
        accuracy = f'{100 * result["test_accuracy_mean"]:.1f}'
        accuracy += '' if std is None else f' ± {100 * std:4.1f}'
        lines.append(
            f'{kind:<17} {result["parameters"]:>10,} {accuracy:>16} '
            f'{"-" if deviation is None else format(deviation, ".2g"):>10} '
            f'{result["seconds"]:>8.1f}'
        )
    return '\n'.join(lines)


def write_json(results: dict[str, dict]) -> None:
    report = provenance() | {'seeds': SEEDS.value, 'kinds': results}
    write_text(os.path.join(OUT.value, 'results.json'), to_json(report, indent=1))


def draw(runs: dict[str, list[list[dict]]]) -> None:
    """Left: test accuracy by epoch, all seeds. Right: weight deviation by step, first seed."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout='constrained')
    for kind, records_of_seeds in runs.items():
        colour = COLOURS[kind.removeprefix('lc_')]
        for seed, records in enumerate(records_of_seeds):
            tested = [record for record in records if 'test_top1' in record]
            left.plot(
                [record['epoch'] for record in tested],
                [100 * record['test_top1'] for record in tested],
                color=colour,
                alpha=0.85,
                label=kind if seed == 0 else None,
            )
        steps, deviations = [], []
        for record in records_of_seeds[0]:
            # Two points at a step that ends in a sleep: the flank of the saw-tooth.
            for name in ('weight_deviation_before_sleep', 'weight_deviation'):
                if record.get(name) is not None:
                    steps.append(record['epoch'])
                    deviations.append(record[name])
        if deviations:
            right.plot(steps, deviations, color=colour, linewidth=1, label=kind)
    left.set(xlabel='epoch', ylabel='test accuracy (%)', ylim=(0, 100), title='Real digits')
    right.set(
        xlabel='epoch',
        ylabel='rms(w − mean of the pool) / rms(w)',
        ylim=(0, 1),
        title='Deviation within pools',
    )
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    path = os.path.join(OUT.value, 'report.png')
    with writing(path):
        figure.savefig(path, dpi=150)


if __name__ == '__main__':
    cli.run(main)
