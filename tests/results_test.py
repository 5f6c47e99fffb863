"""The README has the numbers of the pages of results, and these have those of the JSON files."""

import json
import re

import pytest
from tiny_runs import ROOT

from experiments.common import kept
from experiments.reports import enough_sleep, positions, table

RESULTS = ROOT / 'experiments/results'
README = (ROOT / 'README.md').read_text()
PAGES = {path.parent.name: path.read_text() for path in RESULTS.glob('*/README.md')}


def of_runs(report):
    return lambda folder: report.markdown(kept.read(str(folder / 'runs.json')))


def of_table(folder):
    return table.markdown(json.loads((folder / 'table.json').read_text()))


MEASURED = {
    'cifar10_small': of_table,
    'enough_sleep': of_runs(enough_sleep),
    'positions': of_runs(positions),
}


@pytest.mark.parametrize('name', MEASURED)
def test_tables_of_pages_are_made_of_their_numbers(name):
    made = MEASURED[name](RESULTS / name).strip()
    assert (RESULTS / name / 'table.md').read_text().strip() == made
    assert made in PAGES[name], f'put {name}/table.md into its page'


def test_the_table_of_the_ablation_has_the_numbers_of_its_comparison():
    numbers = r'\d+\.\d ± \d+\.\d'
    lines = [line for line in PAGES['ablation'].splitlines() if line.startswith('| ')]
    shown = [number for line in lines for number in re.findall(numbers, line)]
    compared = re.findall(numbers, (RESULTS / 'ablation/comparison.md').read_text())
    assert len(shown) > 20 and set(shown) <= set(compared)


def test_the_table_of_macaque_v4_is_the_one_that_was_measured():
    measured = json.loads((RESULTS / 'brain_score/brain_score.json').read_text())
    runs = measured['regions']['all']['runs'].values()
    lines = [line for line in PAGES['brain_score'].splitlines() if re.match(r'\| .* 0\.', line)]
    assert len(lines) == len(runs)
    for line, best in zip(lines, (run['best'] for run in runs)):
        difference = ''
        if 'difference' in best:
            low, high = best['difference_interval']
            difference = f'{best["difference"]:.3f} [{low:.3f}, {high:.3f}] '.replace('-', '−')
        assert line.endswith(f'| {best["score"]:.3f} | {difference}|')


def test_every_page_has_a_question_and_a_picture_and_is_in_the_list():
    listed = (RESULTS / 'README.md').read_text()
    for name, page in PAGES.items():
        assert re.match(r'# .*\?\n', page), name
        assert re.search(r'!\[.+\]\(.+\.png\)', page), name
        assert f'({name}/README.md)' in listed, name


def test_numbers_of_the_readme_are_those_of_the_pages():
    _, _, section = README.partition('\n## Results\n')
    section = section.partition('\n## ')[0]
    assert (RESULTS / 'cifar10_small/table.md').read_text().strip() in section
    known = set(re.findall(r'\d+\.\d+', '\n'.join(PAGES.values())))
    numbers = set(re.findall(r'\d+\.\d+', section))
    assert len(numbers) > 20 and not numbers - known


def test_the_table_of_the_demo_is_the_one_that_was_measured():
    measured = json.loads((RESULTS / 'demo/results.json').read_text())
    for kind, result in measured['kinds'].items():
        mean, std = (100 * result[f'test_accuracy_{name}'] for name in ('mean', 'std'))
        assert f'| `{kind}` | {result["parameters"]:,} | {mean:.1f} ± {std:.1f} |' in README
    assert measured['commit'] in README
