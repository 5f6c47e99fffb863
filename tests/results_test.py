"""The README has the numbers of the pages of results, and these have those of the JSON files."""

import json
import re
import shutil

import pytest
import tiny_runs
from tiny_runs import ROOT

from experiments.common import kept
from experiments.reports import (
    brain_networks,
    enough_sleep,
    positions,
    smooth_and_alike,
    table,
    three_datasets,
)
from experiments.reports.rows import config_of
from experiments.reports.style import mean_and_std

RESULTS = ROOT / 'experiments/results'
README = (ROOT / 'README.md').read_text()
PAGES = {path.parent.name: path.read_text() for path in RESULTS.glob('*/README.md')}


def of_runs(report):
    return lambda path: report.markdown(kept.read(str(path.with_name('runs.json'))))


def of_table(path):
    return table.markdown(json.loads(path.with_suffix('.json').read_text()))


def of_networks(path):
    return brain_networks.markdown(json.loads(path.with_suffix('.json').read_text()))


def of_three_datasets(path):
    return table.markdown(three_datasets.read(RESULTS))


def of_three_datasets_side_by_side(path):
    runs = three_datasets.read(RESULTS)
    return three_datasets.markdown(three_datasets.side_by_side(runs, three_datasets.TITLES))


def of_rates(path):
    return three_datasets.rates_markdown(three_datasets.rates(RESULTS))


MEASURED = {
    'brain_score/brain_score.md': of_networks,
    'cifar10_small/table.md': of_table,
    'enough_sleep/table.md': of_runs(enough_sleep),
    'feedback/cifar10.md': of_table,
    'feedback/table.md': of_table,
    'positions/table.md': of_runs(positions),
    'rare_sleep/table.md': of_table,
    'smooth_and_alike/table.md': of_runs(smooth_and_alike),
    'three_datasets/side_by_side.md': of_three_datasets_side_by_side,
    'three_datasets/rates.md': of_rates,
    'three_datasets/table.md': of_three_datasets,
}


@pytest.mark.parametrize('name', MEASURED)
def test_tables_of_pages_are_made_of_their_numbers(name):
    path = RESULTS / name
    made = MEASURED[name](path).strip()
    assert path.read_text().strip() == made
    assert made in PAGES[path.parent.name], f'put {name} into its page'


def test_the_runs_of_enough_sleep_are_those_that_its_command_would_make(tmp_path):
    """It would refuse runs with other configs, and train those that are missing."""
    shutil.copy(RESULTS / 'enough_sleep/runs.json', tmp_path)
    done = tiny_runs.call('enough_sleep', f'--out={tmp_path}', f'--runs={tmp_path}/runs')
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / 'runs').exists()
    assert (tmp_path / 'table.md').read_text() == (RESULTS / 'enough_sleep/table.md').read_text()


def test_rows_have_the_rates_that_were_best_on_held_out_images():
    """The Hebbian rule's is that of the mean with the same pools and sleeps."""
    tried = three_datasets.rates(RESULTS)
    cells = three_datasets.read(RESULTS)['cells']
    for dataset in three_datasets.RATED:
        for row in cells[f'{dataset}-4']:
            rate = config_of(row, three_datasets.small(dataset), {}).learning_rate
            by_rate = tried[f'{dataset}_small'][row.replace('hebbian', 'mean')]
            assert rate == three_datasets.best(by_rate), (dataset, row)


def test_patterns_on_cifar10_are_as_measured():
    rows = json.loads((RESULTS / 'enough_sleep/cifar10.json').read_text())['rows']
    conv, most, fewer = (f'{row["mean"]:.1f}' for row in rows)  # the best first
    page = PAGES['enough_sleep']
    assert f'too: {most} %, where a convolution by SGD has {conv} (' in page
    assert f'With 64 patterns and own momentum it is {fewer}.' in page


def test_rates_of_rows_without_backprop_or_with_local_norms_were_the_best_or_nearly():
    sweep = json.loads((RESULTS / 'feedback/rates_cifar10.json').read_text())
    rows = json.loads((RESULTS / 'feedback/cifar10.json').read_text())['cells']['cifar10-4']
    chosen = [row for row in rows if row.endswith(('_alignment', '_asleep', '_local'))]
    assert len(chosen) == 7
    for row in chosen:
        config = config_of(row, three_datasets.small('cifar10'), {})
        by_rate = three_datasets.tried(sweep, config)
        # Two images in the 5,000 that were held out.
        assert by_rate[config.learning_rate] > max(by_rate.values()) - 0.05, row


def test_the_tables_of_the_ablation_have_the_numbers_of_its_comparisons():
    numbers = r'\d+\.\d ± \d+\.\d'
    lines = [line for line in PAGES['ablation'].splitlines() if line.startswith('| ')]
    shown = [number for line in lines for number in re.findall(numbers, line)]
    compared = re.findall(numbers, (RESULTS / 'ablation/comparison.md').read_text())
    rates = json.loads((RESULTS / 'ablation/rates.json').read_text())['rows']
    compared += [mean_and_std(row['mean'], row['std']) for row in rates]
    assert len(shown) > 30 and set(shown) <= set(compared)


@pytest.mark.parametrize(('trial', 'rows'), [('turns', 8), ('between', 10)])
def test_the_rows_of_trials_of_rare_sleep_are_those_that_were_measured(trial, rows):
    measured = json.loads((RESULTS / f'rare_sleep/{trial}.json').read_text())['rows']
    assert len(measured) == rows
    for row in measured:
        shown = f'| {row["name"]} | {mean_and_std(row["mean"], row["std"])} | {row["n"]} |'
        assert shown in PAGES['rare_sleep']


def test_every_page_has_a_question_and_a_picture_and_is_in_the_list():
    listed = (RESULTS / 'README.md').read_text()
    for name, page in PAGES.items():
        assert re.match(r'# .*\?\n', page), name
        assert re.search(r'!\[.+\]\(.+\.png\)', page), name
        assert f'({name}/README.md)' in listed, name


def test_numbers_of_the_readme_are_those_of_the_pages():
    _, _, section = README.partition('\n## Results\n')
    section = section.partition('\n## ')[0]
    assert (RESULTS / 'three_datasets/side_by_side.md').read_text().strip() in section
    assert section.count('![') == 1 and section.count('|---|') == 1
    known = set(re.findall(r'\d+\.\d+', '\n'.join(PAGES.values())))
    numbers = set(re.findall(r'\d+\.\d+', section))
    assert len(numbers) > 20 and not numbers - known


def test_the_table_of_the_demo_is_the_one_that_was_measured():
    measured = json.loads((RESULTS / 'demo/results.json').read_text())
    for kind, result in measured['kinds'].items():
        mean, std = (100 * result[f'test_accuracy_{name}'] for name in ('mean', 'std'))
        assert f'| `{kind}` | {result["parameters"]:,} | {mean:.1f} ± {std:.1f} |' in README
    assert measured['commit'] in README
