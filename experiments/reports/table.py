"""The results of a table's runs: means, paired differences with their intervals, and a figure."""

import itertools
import math
import os
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from experiments.common import pictures
from experiments.common.runs import DONE, FAILED, REMEDY, read_done, reason
from experiments.reports.rows import ROWS, row_of
from experiments.reports.style import LETTER, mean_and_std
from lcn_jax.data.specs import SPECS
from lcn_jax.files import read_json, to_json, write_text
from lcn_jax.training.metrics import awake

METRICS = {'top1': 'top-1', 'top5': 'top-5'}
REFERENCES = ('conv', 'lc')  # rows that every row is compared with


def read(folder: str) -> list[dict[str, Any]]:
    """done.json of the runs in FOLDER/COLUMN/ROW-SEED, with their column, row, seed and config.

    The row is that of the config (`row_of`).
    """
    runs = []
    for path in sorted(pathlib.Path(folder).glob(f'*/*/{DONE}')):
        workdir = path.parent
        row, _, seed = workdir.name.rpartition('-')
        if row in ROWS and seed.isdigit():
            config = read_json(workdir / 'config.json', REMEDY)
            row = row_of(row, config)
            place = {'column': workdir.parent.name, 'row': row, 'seed': int(seed)}
            runs.append(read_done(str(workdir)) | place | {'config': config})
    return runs


def write(folder: str) -> str:
    """Writes table.md, table.json and table.png of the runs in a folder; returns what to print."""
    report = aggregate(read(folder)) | {'failed': failed(folder)}
    text = markdown(report)
    write_text(os.path.join(folder, 'table.md'), text)
    write_text(os.path.join(folder, 'table.json'), to_json(report, indent=1))
    pictures.save(plot(report), os.path.join(folder, 'table.png'))
    return f'{text}\n{folder}/table.md, table.json and table.png are written'


def failed(folder: str) -> dict[str, str]:
    """Why runs failed, by their places in the folder."""
    workdirs = sorted(path.parent for path in pathlib.Path(folder).glob(f'*/*/{FAILED}'))
    return {os.path.relpath(workdir, folder): reason(str(workdir)) for workdir in workdirs}


def aggregate(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """{'cells': {column: {row: cell}}, 'columns': {column: what its runs share}}.

    A cell has n, the number of seeds, and for each metric, in percent, by_seed, mean, std (of a
    sample; None for one seed), and differences to the rows conv and lc. A difference has mean and
    half_width: half of the 95 % interval by Student's t over the seeds that both rows have, None
    for fewer than two. weight_snr, weight_deviation (both before the sleep, if training ends in
    one) and seconds are means over seeds.
    """
    distinct = {(run['column'], run['row'], run['seed']): run for run in runs}
    return merge([_table_of(run) for run in distinct.values()])


def _table_of(run: dict[str, Any]) -> dict[str, Any]:
    """The table of one run, but for what is computed over seeds."""
    cell = {
        'n': 1,
        'weight_snr': awake(run, 'weight_snr'),
        'weight_deviation': awake(run, 'weight_deviation'),
        'seconds': run['seconds'],
        **{metric: {'by_seed': {run['seed']: 100 * run[f'test_{metric}']}} for metric in METRICS},
    }
    shared = {name: str(run[name]) for name in ('commit', 'device', 'jax')} | {
        name: str(run['config'][name])
        for name in ('dataset', 'epochs', 'batch_size', 'train_images')
    }
    return {'cells': {run['column']: {run['row']: cell}}, 'columns': {run['column']: shared}}


def merge(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The table of the runs of several tables, as `aggregate` returns it.

    A table may have columns, rows, and seeds of a row that others lack, such as those that were
    trained on another machine.

    Raises:
      ValueError: two tables have the same seed of a row.
    """
    cells, shared = {}, {}
    for column in sorted({column for table in tables for column in table['cells']}):
        of_column = [table for table in tables if column in table['cells']]
        parts = [table['cells'][column] for table in of_column]
        by_row = {row: [rows[row] for rows in parts if row in rows] for row in ROWS}
        cells[column] = {row: _merged(found) for row, found in by_row.items() if found}
        _compare(cells[column])
        known = [table['columns'][column] for table in of_column]
        shared[column] = {
            name: ', '.join(sorted({text for of in known for text in of[name].split(', ')}))
            for name in known[0]
        }
    return {'cells': cells, 'columns': shared}


def _merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """A cell with the seeds of several, without differences."""
    cell: dict[str, Any] = {'n': sum(part['n'] for part in parts)}
    for name in ('weight_snr', 'weight_deviation', 'seconds'):
        values = [part[name] for part in parts for _ in range(part['n'])]
        cell[name] = None if None in values else statistics.mean(values)
    for metric in METRICS:
        seeds = [seed for part in parts for seed in part[metric]['by_seed'].items()]
        by_seed = dict(sorted((int(seed), value) for seed, value in seeds))  # JSON has them as text
        if len(by_seed) < len(seeds):
            raise ValueError(f'two tables have the same seed of a row: {seeds}')
        cell[metric] = over_seeds(by_seed)
    return cell


def _compare(rows: dict[str, dict[str, Any]]) -> None:
    """Adds their differences to the references to cells of a column."""
    for cell, metric in itertools.product(rows.values(), METRICS):
        values = cell[metric]['by_seed']
        cell[metric]['differences'] = {
            row: paired(values, rows[row][metric]['by_seed']) if row in rows else None
            for row in REFERENCES
        }


def over_seeds(values: dict[int, float]) -> dict[str, Any]:
    """by_seed, mean, and std: of a sample, None for one seed."""
    std = statistics.stdev(values.values()) if len(values) > 1 else None
    return {'by_seed': values, 'mean': statistics.mean(values.values()), 'std': std}


def paired(values: dict[int, float], others: dict[int, float]) -> dict[str, float | None] | None:
    """Mean difference at common keys, and half of its 95 % interval by Student's t."""
    differences = [values[key] - others[key] for key in values if key in others]
    if not differences:
        return None
    count, half_width = len(differences), None
    if count > 1:
        error = statistics.stdev(differences) / math.sqrt(count)
        half_width = float(stats.t.ppf(0.975, count - 1)) * error
    return {'mean': statistics.mean(differences), 'half_width': half_width}


def markdown(report: dict[str, Any]) -> str:
    """A table for each column, and what its runs have in common."""
    parts = []
    for column, rows in report['cells'].items():
        shared = report['columns'][column]
        dataset, _, padding = column.rpartition('-')
        # With ten classes nearly everything is in the top five.
        known = SPECS.get(dataset)
        metrics = ['top1'] if known and known.num_classes <= 10 else list(METRICS)
        compared = ''.join(f' − {name} |' for name in (ROWS[row].label for row in REFERENCES))
        heads = ''.join(f' {METRICS[m]} % |{compared}' for m in metrics)
        parts.append(f'**{dataset}, padding {padding}**\n')
        parts.append(
            f'| |{heads} n | weight deviation | s / run |\n|---|' + '---:|' * (heads.count('|') + 3)
        )
        for row, cell in rows.items():
            values = ''
            for metric in metrics:
                values += f' {mean_text(cell[metric])} |'
                for reference, difference in cell[metric]['differences'].items():
                    values += f' {"" if reference == row else difference_text(difference)} |'
            deviation = cell['weight_deviation']
            deviation = '' if deviation is None else f'{deviation:.2g}'
            parts.append(
                f'| {ROWS[row].label} |{values} {cell["n"]} | {deviation} | {cell["seconds"]:.0f} |'
            )
        images = '' if shared['train_images'] == '0' else f' of {shared["train_images"]} images'
        parts.append(
            f'\n{shared["epochs"]} epochs{images}, batches of {shared["batch_size"]}; '
            f'commit {shared["commit"]}; {shared["device"]}, JAX {shared["jax"]}. Mean ± standard '
            'deviation over n seeds; differences are paired over seeds, with the half width of '
            'their 95 % interval. Weight deviation: rms(w − mean of the pool) / rms(w) over all '
            'local weights at the end; before the sleep, if training ends in one.\n'
        )
    for workdir, why in report.get('failed', {}).items():
        parts.append(f'Failed and not in the table: {workdir}: {why}\n')
    return '\n'.join(parts)


def mean_text(metric: dict[str, Any], digits: int = 1) -> str:
    """Mean ± standard deviation, of what `over_seeds` returns."""
    return mean_and_std(metric['mean'], metric['std'], digits)


def difference_text(difference: dict | None, digits: int = 1) -> str:
    """Of what `paired` returns: '+1.2 ± 0.3', '' for None."""
    if difference is None:
        return ''
    text = f'{difference["mean"]:+.{digits}f}'.replace('-', '−')
    half_width = difference['half_width']
    return text if half_width is None else f'{text} ± {half_width:.{digits}f}'


def plot(report: dict[str, Any]) -> Figure:
    """Top-1 accuracy of each row, a panel for each column; bars are the standard deviation."""
    count = max(1, len(report['cells']))  # no run may be done
    present = [row for row in ROWS if any(row in rows for rows in report['cells'].values())]
    longest = max((len(ROWS[row].label) for row in present), default=0)
    size = (0.7 + LETTER * longest + 2.8 * count, max(4.2, 0.23 * len(present)))
    figure = Figure(figsize=size, layout='constrained')
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for axes, (column, rows) in zip(panels, report['cells'].items()):
        for row, cell in rows.items():
            axes.errorbar(
                cell['top1']['mean'], present.index(row), xerr=cell['top1']['std'],
                fmt='o', color=ROWS[row].colour, capsize=3,
            )  # fmt: skip
        axes.set(xlabel='top-1 accuracy (%)', title=column)
        axes.grid(axis='x', alpha=0.3)
    panels[0].set_yticks(np.arange(len(present)), [ROWS[row].label for row in present])
    panels[0].invert_yaxis()
    return figure
