"""Columns side by side by hand, and which runs of a sweep are a row's."""

import pytest
import tiny_config

from experiments.reports import three_datasets
from experiments.reports.rows import config_of


def cell(mean, difference=0.0, half_width=0.0, std=1.0, n=3):
    paired = {'mean': difference, 'half_width': half_width}
    return {'n': n, 'top1': {'mean': mean, 'std': std, 'differences': {'conv': paired}}}


TABLE = {
    'cells': {
        'b-4': {
            'conv': cell(80.0),
            'lc': cell(70.0, -10.0, 0.5),
            'lc_mean100': cell(60.0, -20.0),
        },
        'a-4': {'conv': cell(50.0, n=2), 'lc': cell(45.0, -5.0, None, None, n=1)},
        'c-4': {'conv': cell(30.0), 'lc_reps4': cell(31.0, 1.0, 0.25)},
        'other-4': {'conv': cell(1.0), 'lc_reps4': cell(1.0), 'lc_mean100': cell(1.0)},
    },
    'columns': {
        f'{name}-4': {'commit': 3 * name, 'device': 'cpu', 'jax': '1'}
        for name in ('b', 'a', 'c', 'other')
    },
}


def test_columns_side_by_side_have_the_rows_of_two_of_them():
    report = three_datasets.side_by_side(TABLE, {'a-4': 'A', 'b-4': 'B', 'c-4': 'C'})
    assert list(report['cells']) == list(report['columns']) == ['A', 'B', 'C']
    rows = {title: list(rows) for title, rows in report['cells'].items()}
    assert rows == {'A': ['conv', 'lc'], 'B': ['conv', 'lc'], 'C': ['conv']}
    assert three_datasets.markdown(report) == (
        '| | A, % | − conv | B, % | − conv | C, % | − conv |\n'
        '|---|---:|---:|---:|---:|---:|---:|\n'
        '| conv | 50.0 ± 1.0 (2) |  | 80.0 ± 1.0 |  | 30.0 ± 1.0 |  |\n'
        '| LC | 45.0 (1) | −5.0 | 70.0 ± 1.0 | −10.0 ± 0.5 | | |\n'
        '\nTop-1 accuracy: mean ± standard deviation over n seeds. In brackets, n, where it '
        'differs between rows. Differences are paired over the seeds that both rows have, with '
        'the half width of their 95 % interval. A: n = 1 or 2, commit aaa, cpu, JAX 1; '
        'B: n = 3, commit bbb, cpu, JAX 1; C: n = 3, commit ccc, cpu, JAX 1.\n'
    )


# Fields in which runs of a sweep differ, as comparison.json has them: values, not names with kinds.
SWEEP = {
    'rows': [
        {'fields': fields | {'learning_rate': rate, 'epochs': 8}, 'mean': mean}
        for fields, rates in [
            (
                {'connectivity': 'conv', 'sleep.rule': 'none', 'momentum': 0.9},
                {0.01: 40, 0.005: 41},
            ),
            ({'connectivity': 'lc', 'sleep.rule': 'none', 'momentum': 0.9}, {0.01: 30, 0.005: 29}),
            ({'connectivity': 'lc', 'sleep.rule': 'mean', 'momentum': 0.9}, {0.02: 35}),
            ({'connectivity': 'lc', 'sleep.rule': 'mean', 'momentum': 0.97}, {0.04: 36}),
        ]
        for rate, mean in rates.items()
    ]
}


@pytest.mark.parametrize(
    ('row', 'momentum', 'expected'),
    [
        ('conv', 0.9, {0.005: 41, 0.01: 40}),
        ('lc', 0.9, {0.005: 29, 0.01: 30}),
        ('lc_mean10', 0.9, {0.02: 35}),
        ('lc_mean10', 0.97, {0.04: 36}),
        ('lc_hebbian10', 0.9, {}),
    ],
)
def test_the_rates_of_a_row_are_those_tried_with_its_other_fields(row, momentum, expected):
    config = config_of(row, {'get_config': tiny_config.get_config}, {'momentum': momentum})
    assert config.epochs != 8  # as rates are tried in less time
    found = three_datasets.tried(SWEEP, config)
    assert found == expected and list(found) == sorted(found)


def test_the_best_rates_are_bold():
    text = three_datasets.rates_markdown(
        {'small': {'conv': {0.005: 41.0, 0.01: 40.0}, 'lc': {0.0005: 3.25}}}
    )
    assert text == (
        '| `small` | 5e-4 | 5e-3 | 1e-2 |\n|---|---:|---:|---:|\n'
        '| conv |  | **41.0** | 40.0 |\n| LC | **3.2** |  |  |\n'
    )
