"""Columns of a table side by side, as in the paper's Table 1, and how rates were chosen."""

import importlib
import itertools
import pathlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from experiments.reports.rows import ROWS, config_of
from experiments.reports.table import difference_text, mean_text, merge
from lcn_jax.files import read_json

TITLES = {'cifar10-4': 'CIFAR-10', 'cifar100-4': 'CIFAR-100', 'tiny_imagenet-4': 'TinyImageNet-20'}
# One table for each machine that runs of a dataset are from.
TABLES = (
    'cifar10_small/table.json',
    'three_datasets/cifar10.json',
    'three_datasets/cifar100.json',
    'three_datasets/tiny_imagenet.json',
)
RATED = ('cifar100', 'tiny_imagenet')  # datasets whose rates were chosen in the same way
REMEDY = 'check it out again'
NOT_COMPARED = ('learning_rate', 'epochs')  # between a run of a table and those for its rate


def read(results: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The table of the runs on the paper's three datasets, in the folder of the results."""
    return merge([read_json(results / table, REMEDY) for table in TABLES])


def rates(results: pathlib.Path) -> dict[str, dict[str, dict[float, float]]]:
    """Held-out accuracy by learning rate, by config file and row; only where rates were tried."""
    cells, found = read(results)['cells'], {}
    for dataset in RATED:
        sweep = read_json(results / f'three_datasets/rates_{dataset}.json', REMEDY)
        of_rows = {
            row: tried(sweep, config_of(row, small(dataset), {})) for row in cells[f'{dataset}-4']
        }
        found[f'{dataset}_small'] = {row: by_rate for row, by_rate in of_rows.items() if by_rate}
    return found


def small(dataset: str) -> dict[str, Any]:
    """The definitions in the config file of a dataset on the small budget, by name."""
    return vars(importlib.import_module(f'experiments.configs.{dataset}_small'))


def side_by_side(table: Mapping[str, Any], titles: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Columns of a table, as of `table.aggregate`, with titles instead of their names.

    They are in the order of `titles`; those without a title are left out. The table has the rows
    that at least two of its columns have.
    """
    names = {title: column for column, title in titles.items() if column in table['cells']}
    count = Counter(row for column in names.values() for row in table['cells'][column])
    cells = {
        title: {row: cell for row, cell in table['cells'][column].items() if count[row] > 1}
        for title, column in names.items()
    }
    return {'cells': cells, 'columns': {title: table['columns'][names[title]] for title in cells}}


def markdown(report: Mapping[str, Any]) -> str:
    """Rows × datasets: top-1 accuracy and the difference to conv, and what was trained where."""
    cells = report['cells']
    lines = [
        f'| |{"".join(f" {title}, % | − conv |" for title in cells)}',
        f'|---|{"---:|" * 2 * len(cells)}',
    ]
    for row in ROWS:
        if any(row in rows for rows in cells.values()):
            values = ''.join(_cell(row, rows) for rows in cells.values())
            lines.append(f'| {ROWS[row].label} |{values}')
    parts = []
    for title, rows in cells.items():
        seeds = _seeds(rows)
        of = report['columns'][title]
        parts.append(
            f'{title}: n = {" or ".join(map(str, seeds))}, commit {of["commit"]}, {of["device"]}, '
            f'JAX {of["jax"]}'
        )
    lines.append(
        '\nTop-1 accuracy: mean ± standard deviation over n seeds. In brackets, n, '
        'where it differs between rows. Differences are paired over the seeds that both rows have, '
        f'with the half width of their 95 % interval. {"; ".join(parts)}.'
    )
    return '\n'.join(lines) + '\n'


def _seeds(rows: Mapping[str, Any]) -> list[int]:
    return sorted({cell['n'] for cell in rows.values()})


def _cell(row: str, rows: Mapping[str, Any]) -> str:
    if row not in rows:
        return ' | |'
    top1 = rows[row]['top1']
    difference = '' if row == 'conv' else difference_text(top1['differences']['conv'])
    n = f' ({rows[row]["n"]})' if len(_seeds(rows)) > 1 else ''
    return f' {mean_text(top1)}{n} | {difference} |'


def tried(sweep: Mapping[str, Any], config: ConfigDict) -> dict[float, float]:
    """Held-out accuracy in percent by learning rate, of a sweep's rows with the other fields of a
    config.

    sweep: as in comparison.json of `experiments.sweep`.
    """
    own = flatten_dict(config.to_dict(), sep='.')
    found = {}
    for row in sweep['rows']:
        fields = row['fields'].items()
        if all(own.get(field) == value for field, value in fields if field not in NOT_COMPARED):
            found[row['fields']['learning_rate']] = row['mean']
    return dict(sorted(found.items()))


def best(by_rate: Mapping[float, float]) -> float:
    return max(by_rate, key=by_rate.__getitem__)


def rates_markdown(by_file: Mapping[str, Mapping[str, Mapping[float, float]]]) -> str:
    """The Markdown of `rates`: a table for each config file, with the best rates in bold."""
    lines = []
    for name, by_row in by_file.items():
        columns = sorted(set(itertools.chain.from_iterable(by_row.values())))
        lines.append(f'| `{name}` | {" | ".join(map(_power, columns))} |')
        lines.append(f'|---|{"---:|" * len(columns)}')
        for row, by_rate in by_row.items():
            texts = {rate: f'{accuracy:.1f}' for rate, accuracy in by_rate.items()}
            texts[best(by_rate)] = f'**{texts[best(by_rate)]}**'
            values = ' | '.join(texts.get(rate, '') for rate in columns)
            lines.append(f'| {ROWS[row].label} | {values} |')
        lines.append('')
    return '\n'.join(lines)


def _power(rate: float) -> str:
    """0.005 as in a config: 5e-3."""
    mantissa, _, exponent = f'{rate:.3e}'.partition('e')
    return f'{float(mantissa):g}e{int(exponent)}'
