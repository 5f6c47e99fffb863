"""A comparison of runs as files: Markdown, JSON, CSV and a picture."""

import csv
import io
import os
import textwrap
from typing import Any

from matplotlib.figure import Figure

from experiments.common import pictures
from experiments.reports.comparison import Comparison
from experiments.reports.style import COLOURS, LETTER, mean_and_std
from experiments.reports.table import difference_text
from lcn_jax.files import make_folder, to_json, write_text
from lcn_jax.training import metrics

LONGEST_LABEL = 50  # letters in a line


def write(comparison: Comparison, folder: str, shows_workdirs: bool = False) -> str:
    """Writes comparison.md, .json, .csv and .png into a folder; returns what to print."""
    make_folder(folder)
    path, text = os.path.join(folder, 'comparison'), markdown(comparison, shows_workdirs)
    write_text(f'{path}.md', text)
    write_text(f'{path}.json', to_json(as_json(comparison), indent=1))
    write_text(f'{path}.csv', as_csv(comparison))
    pictures.save(plot(comparison), f'{path}.png')
    return f'{text}\n{path}.md, .json, .csv and .png are written'


def markdown(comparison: Comparison, shows_workdirs: bool = False) -> str:
    """A line for each row, and what was left out."""
    heads = ['', f'{comparison.splits} top-1 %', 'n', 'weight deviation', 's / run']
    heads[2:2] = ['− baseline'] if comparison.baseline else []
    lines = [
        f'| {" | ".join(heads + ["workdirs"] * shows_workdirs)} |',
        f'|---|{"---:|" * (len(heads) - 1)}{"---|" * shows_workdirs}',
    ]
    for row in comparison.rows:
        deviation = '' if row.deviation is None else f'{row.deviation:.2g}'
        cells = [row.name, mean_and_std(row.mean, row.spread)]
        if comparison.baseline:
            cells.append('' if row.name == comparison.baseline else difference_text(row.difference))
        cells += [str(len(row.runs)), deviation, f'{row.seconds:.0f}']
        cells += [', '.join(row.workdirs)] * shows_workdirs
        lines.append(f'| {" | ".join(cells)} |')
    notes = [made_by(comparison), 'Mean ± standard deviation over n seeds.']
    if comparison.baseline:
        notes.append(
            f'Differences to {comparison.baseline} are paired over seeds, with the half width of '
            'their 95 % interval.'
        )
    lines += ['', ' '.join(note for note in notes if note)]
    lines += [f'\nLeft out: {why}' for why in comparison.left_out.values()]
    return '\n'.join(lines) + '\n'


def provenance(comparison: Comparison) -> dict[str, str]:
    """Commit, device and version of JAX; 'unknown' for runs that `experiments.train` made."""
    runs = [run for row in comparison.rows for run in row.runs.values()]
    return {
        name: ', '.join(sorted({str(run.record.get(name, 'unknown')) for run in runs}))
        for name in ('commit', 'device', 'jax')
    }


def made_by(comparison: Comparison) -> str:
    """The provenance as a sentence, '' if it is unknown."""
    of = provenance(comparison)
    known = of['commit'] != 'unknown'
    return f'Commit {of["commit"]}; {of["device"]}, JAX {of["jax"]}.' if known else ''


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Accuracies in percent, by seed, their mean and standard deviation, and differences."""
    rows = [
        {
            'name': row.name,
            'fields': row.values,
            'n': len(row.runs),
            'by_seed': row.accuracies,
            'mean': row.mean,
            'std': row.spread,
            'difference': row.difference,
            'weight_deviation': row.deviation,
            'seconds': row.seconds,
            'workdirs': row.workdirs,
        }
        for row in comparison.rows
    ]
    return provenance(comparison) | {
        'split': comparison.splits,
        'baseline': comparison.baseline,
        'rows': rows,
        'left_out': comparison.left_out,
    }


def as_csv(comparison: Comparison) -> str:
    """A line for each run, with the fields that differ: for pandas or R."""
    fields = list(comparison.rows[0].values)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator='\n')
    lines.writerow(
        ['name', *fields, 'seed', 'top1_percent', 'weight_deviation', 'seconds', 'workdir']
    )
    for row in comparison.rows:
        for seed, run in sorted(row.runs.items()):
            deviation = metrics.awake(run.record, 'weight_deviation')
            seconds = run.record['seconds']
            values = seed, run.accuracy, deviation, seconds, run.workdir
            lines.writerow([row.name, *row.values.values(), *values])
    return text.getvalue()


def plot(comparison: Comparison) -> Figure:
    """A point for each row, with the standard deviation over its runs."""
    # A line may end between the parts of a name, not within one.
    names = [row.name.replace(' ', '\xa0').replace(',\xa0', ', ') for row in comparison.rows]
    labels = [textwrap.wrap(name, LONGEST_LABEL) for name in names]
    width = 5.5 + LETTER * max(len(line) for lines in labels for line in lines)
    height = 0.8 + 0.2 * (1 + len(labels) * max(map(len, labels)))
    figure = Figure(figsize=(width, height), layout='constrained')
    axes = figure.subplots()
    for place, row in enumerate(comparison.rows):
        colour = COLOURS.get(row.kind.removeprefix('lc_'), COLOURS['lc'])
        axes.errorbar(row.mean, place, xerr=row.spread, fmt='o', color=colour, capsize=3)
    axes.set_yticks(range(len(labels)), ['\n'.join(lines) for lines in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel(f'{comparison.splits} top-1 accuracy (%)')
    axes.grid(axis='x', alpha=0.3)
    return figure
