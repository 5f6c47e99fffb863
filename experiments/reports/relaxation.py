"""Networks that are convolutions until an epoch: their accuracy, and how far they then move."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.reports.rows import RELAXED
from experiments.reports.style import COLOURS
from lcn_jax.errors import UsageError
from lcn_jax.training import metrics

Runs = Sequence[list[dict[str, Any]]]  # the records of each seed


def read(folder: pathlib.Path) -> dict[int, Runs]:
    """The finished runs of each relaxed row in a folder of `experiments.table`, by the epoch.

    For a network that never becomes locally connected it is the last epoch of its training.

    Raises:
      UsageError: the folder has no such runs.
    """
    found = {}
    for name, row in RELAXED.items():
        workdirs = sorted(path.parent for path in folder.glob(f'{name}-*/done.json'))
        runs = [metrics.read(workdir / 'metrics.jsonl') for workdir in workdirs]
        if runs:
            found[row.fields.get('sleep.until') or round(runs[0][-1]['epoch'])] = runs
    if not found:
        raise UsageError(f'{folder} has no finished runs of {", ".join(RELAXED)}.')
    return found


def draw(runs_by_epoch: Mapping[int, Runs]) -> Figure:
    """Left: final accuracy by the epoch of relaxation. Right: mean weight deviation by epoch."""
    figure = Figure(figsize=(10.5, 4), layout='constrained')
    left, right = figure.subplots(1, 2)
    epochs = list(runs_by_epoch)
    accuracies = [
        [100 * records[-1]['test_top1'] for records in runs] for runs in runs_by_epoch.values()
    ]
    for epoch, values in zip(epochs, accuracies):
        left.plot([epoch] * len(values), values, '.', color=COLOURS['relaxed'], alpha=0.6)
    left.plot(epochs, [np.mean(values) for values in accuracies], color=COLOURS['relaxed'])
    left.set(xlabel='epoch after which it is locally connected', ylabel='final accuracy (%)')

    shades = matplotlib.colormaps['viridis'](np.linspace(0, 0.9, len(epochs)))
    for (epoch, runs), colour in zip(runs_by_epoch.items(), shades):
        tested = [[record for record in records if 'test_top1' in record] for records in runs]
        deviations = np.mean(
            [[record['weight_deviation'] for record in records] for records in tested], axis=0
        )
        at = [record['epoch'] for record in tested[0]]
        right.plot(at, deviations, color=colour, label=f'{epoch}')
    right.set(xlabel='epoch', ylabel='rms(w − mean of the layer) / rms(w)')
    right.set_ylim(bottom=0)
    right.legend(title='after epoch', frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure
