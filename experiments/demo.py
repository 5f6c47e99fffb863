"""The paper's effect on real digits: five kinds of network, a table and a picture, in minutes.

    python -m experiments.demo --out=runs/demo

Writes OUT/results.json and OUT/report.png, and the records of each run under OUT. If it is stopped,
the same command continues.
"""

import os
import statistics
from typing import Any

from absl import flags
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from experiments.common import cli, many, pictures
from experiments.common.provenance import common
from experiments.common.runs import DONE, Runs, has, read_done
from experiments.configs import digits
from experiments.reports.style import COLOURS
from lcn_jax.files import local_folder, to_json, write_text
from lcn_jax.training import metrics

OUT = flags.DEFINE_string('out', 'runs/demo', 'Folder for the results.')
SEEDS = flags.DEFINE_integer('seeds', 3, 'Networks of each kind.', lower_bound=1)
EPOCHS = flags.DEFINE_integer('epochs', None, 'Instead of those of the config.', lower_bound=1)

KINDS = ('conv', 'lc', 'lc_translations', 'lc_hebbian_tiled', 'lc_hebbian_joined')

Records = list[dict[str, Any]]  # of a run; the last is that of done.json


def main(argv):
    del argv
    local_folder('--out', OUT.value)
    configs = {
        f'{kind}-{seed}': make_config(kind, seed) for kind in KINDS for seed in range(SEEDS.value)
    }
    many.run(Runs(OUT.value, configs), report)


def make_config(kind: str, seed: int) -> ConfigDict:
    config = digits.get_config(kind)
    config.seed = seed
    config.data_dir = os.path.join(OUT.value, 'data')
    config.checkpoint_every = 0  # a run takes seconds
    if EPOCHS.value is not None:
        config.epochs = EPOCHS.value
    return config


def report(out: str) -> str:
    """Writes results.json and report.png of the finished runs in a folder; returns the table."""
    runs = {kind: read(out, kind) for kind in KINDS}
    runs = {kind: of_seeds for kind, of_seeds in runs.items() if of_seeds}
    results = {kind: summary(of_seeds) for kind, of_seeds in runs.items()}
    made = common([records[-1] for of_seeds in runs.values() for records in of_seeds])
    seeds = max(map(len, runs.values()))
    path = os.path.join(out, 'results.json')
    write_text(path, to_json(made | {'seeds': seeds, 'kinds': results}, indent=1))
    pictures.save(plot(runs), os.path.join(out, 'report.png'))
    return f'{table(results)}\n\n{path} and {out}/report.png are written'


def read(out: str, kind: str) -> list[Records]:
    """The records of the finished runs of a kind, in the order of their seeds."""
    workdirs = [f'{out}/{kind}-{seed}' for seed in range(SEEDS.value)]
    return [
        [*metrics.read(f'{workdir}/metrics.jsonl')[:-1], read_done(workdir)]
        for workdir in workdirs
        if has(workdir, DONE)
    ]


def summary(records_of_seeds: list[Records]) -> dict:
    """Means over seeds at the end of training, and the sample standard deviation of accuracy.

    If training ends in a sleep, the weight deviation is the one before it: how much of the sharing
    learning has undone.
    """
    last = [records[-1] for records in records_of_seeds]
    accuracies = [record['test_top1'] for record in last]
    deviations = [metrics.awake(record, 'weight_deviation') for record in last]
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


def plot(runs: dict[str, list[Records]]) -> Figure:
    """Left: test accuracy by epoch, all seeds. Right: weight deviation by step, first seed."""
    figure = Figure(figsize=(11, 4.2), layout='constrained')
    left, right = figure.subplots(1, 2)
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
    return figure


if __name__ == '__main__':
    cli.run(main)
