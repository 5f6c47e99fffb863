"""The table that compares runs, from records made up by hand."""

import csv
import json

import pytest
import tiny_runs

from experiments.reports import comparison, comparison_files
from lcn_jax.errors import UsageError
from lcn_jax.training import config as configs


def make_run(folder, seed, accuracy, **changes):
    config = tiny_runs.get_config('resident')
    config.seed = seed
    config.update_from_flattened_dict(changes)
    folder.mkdir()
    (folder / 'config.json').write_text(config.to_json_best_effort())
    last = {'step': 9, 'epoch': config.epochs, 'test_top1': accuracy, 'seconds': 10.0 + seed}
    records = [{'step': 1, 'epoch': 0.5, 'test_top1': 0.5}, last | {'weight_deviation': 0.25}]
    (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, records)))


def read(folder):
    return comparison.read(comparison.workdirs([f'{folder}/*']))


def test_runs_are_rows_by_what_differs(tmp_path):
    make_run(tmp_path / 'a-0', 0, 0.70)
    make_run(tmp_path / 'a-1', 1, 0.74)
    make_run(tmp_path / 'b-0', 0, 0.80, **{'sleep.every': 2, 'workers': 3})
    out = tmp_path / 'new' / 'folder'
    done = tiny_runs.call('compare', f'--workdirs={tmp_path}/a-*,{tmp_path}/b-0', f'--out={out}')
    assert done.returncode == 0, done.stderr
    table = (out / 'comparison.md').read_text()
    assert done.stdout.startswith(table)
    assert (out / 'comparison.png').read_bytes().startswith(b'\x89PNG')
    head, _, *rows = table.splitlines()
    assert head == '|  | test top-1 % | n | weight deviation | s / run |'
    assert rows[:2] == [
        '| lc_hebbian, every 2 | 80.0 | 1 | 0.25 | 10 |',
        '| lc_hebbian, every 7 | 72.0 ± 2.8 | 2 | 0.25 | 10 |',
    ]
    runs = list(csv.DictReader((out / 'comparison.csv').open()))
    assert [(run['name'][-1], run['sleep.every'], run['seed']) for run in runs] == [
        ('2', '2', '0'), ('7', '7', '0'), ('7', '7', '1'),
    ]  # fmt: skip
    assert float(runs[2]['top1_percent']) == 74 and runs[2]['workdir'] == str(tmp_path / 'a-1')
    report = json.loads((out / 'comparison.json').read_text())
    assert report['rows'][1]['by_seed'] == {'0': 70, '1': 74}
    assert report['rows'][1]['fields'] == {'sleep.every': 7}
    assert report['split'] == 'test' and report['left_out'] == {}
    assert report['commit'] == 'unknown'


def test_differences_to_a_baseline_are_paired_over_seeds(tmp_path):
    for seed, (one, other) in enumerate([(0.70, 0.76), (0.74, 0.78), (0.60, None)]):
        make_run(tmp_path / f'a-{seed}', seed, one)
        if other:
            make_run(tmp_path / f'b-{seed}', seed, other, **{'sleep.full_step': False})
    found = comparison.compare(*read(tmp_path), 'lc_hebbian, full_step')
    (better, _), one = found.rows, {'mean': pytest.approx(5)}
    # +6 and +4: standard error 1, and t = 12.706 with one degree of freedom.
    assert better.difference == {
        'mean': pytest.approx(5),
        'half_width': pytest.approx(12.706, abs=0.01),
    }
    text = comparison_files.markdown(found, shows_workdirs=True)
    assert '| − baseline |' in text and text.splitlines()[0].endswith('| workdirs |')
    assert f'| lc_hebbian | 77.0 ± 1.4 | +5.0 ± 12.7 | 2 | 0.25 | 10 | {tmp_path}/b-0, ' in text
    assert '| lc_hebbian, full_step | 68.0 ± 7.2 |  | 3 |' in text
    assert 'Differences to lc_hebbian, full_step are paired' in text
    assert comparison_files.as_json(found)['rows'][1]['difference']['mean'] == 0
    with pytest.raises(UsageError, match=r"--baseline=lc is no row: .* such as 'lc_hebbian, full"):
        comparison.compare(*read(tmp_path), 'lc')


def fields(kind, **changes):
    config = configs.apply_kind(configs.default(), kind)
    config.update_from_flattened_dict(changes)
    return configs.flatten_dict(config.to_dict(), sep='.')


def test_names_are_kinds_and_what_else_differs():
    assert comparison.names(
        [
            fields('conv', learning_rate=0.02, validation=0),
            fields('lc_mean_joined', **{'sleep.every': 1, 'validation': 9}),
            fields('lc_mean', **{'sleep.share_moments': True}),
        ]
    ) == [
        'conv, learning_rate 0.02, init independent, pools.kind tiled, every 10, validation 0',
        'lc_mean_joined, learning_rate 0.001, every 1, validation 9',
        'lc_mean, learning_rate 0.001, init independent, pools.kind tiled, every 10, '
        'share_moments, validation 0',
    ]
    with_rule = fields('lc', **{'sleep.rule': 'own:rule', 'penalty.name': 'smoothness'})
    low_rank = fields('lc', connectivity='low_rank', **{'model.name': 'own:net'})
    assert comparison.names([with_rule, low_rank]) == [
        'lc_own:rule, model.name resnet, penalty.name smoothness',
        'low_rank, model.name own:net, penalty.name none',
    ]


def test_what_is_not_finished_or_repeated_is_named_and_left_out(tmp_path):
    make_run(tmp_path / 'a', 0, 0.7)
    make_run(tmp_path / 'again', 0, 0.7)
    make_run(tmp_path / 'begun', 1, 0.7)
    (tmp_path / 'begun/metrics.jsonl').write_text('{"step": 1, "epoch": 0.5, "test_top1": 0.5}\n')
    make_run(tmp_path / 'broken', 2, 0.7)
    (tmp_path / 'broken/failed.json').write_text('{"reason": "training diverged."}')
    make_run(tmp_path / 'empty', 3, 0.7)
    (tmp_path / 'empty/metrics.jsonl').unlink()
    (tmp_path / 'other').mkdir()
    found = comparison.compare(*read(tmp_path))
    assert [(len(row.runs), row.workdirs) for row in found.rows] == [(1, [str(tmp_path / 'a')])]
    notes = comparison_files.markdown(found).splitlines()[4:]
    for text in (
        f'{tmp_path}/again repeats seed 0 of {tmp_path}/a.',
        f'the run in {tmp_path}/begun is not finished: it is at epoch 0.5 of 2.',
        f'the run in {tmp_path}/broken failed: training diverged.',
        f'the run in {tmp_path}/empty is not finished: it is at epoch 0 of 2.',
        f'{tmp_path}/other holds no run: there is no {tmp_path}/other/config.json.',
    ):
        assert f'Left out: {text}' in notes


def test_a_cut_off_record_does_not_count_and_splits_may_differ(tmp_path):
    """Runs with images held out have another accuracy, and the column says so."""
    make_run(tmp_path / 'a', 0, 0.7)
    make_run(tmp_path / 'b', 0, 0.6, validation=10)
    log = tmp_path / 'b/metrics.jsonl'
    log.write_text(log.read_text().replace('test_top1', 'validation_top1') + '\n{"step": 1')
    head, _, *rows = comparison_files.markdown(comparison.compare(*read(tmp_path))).splitlines()
    assert head.startswith('|  | test/validation top-1 % |')
    assert [row.partition(' | n')[0][:40] for row in rows[:2]] == [
        '| lc_hebbian, validation 0 | 70.0 | 1 | ',
        '| lc_hebbian, validation 10 | 60.0 | 1 |',
    ]


def test_labels_leave_half_of_the_picture_to_the_axes(tmp_path):
    make_run(tmp_path / 'a', 0, 0.7)
    make_run(tmp_path / 'b', 0, 0.6, **{'model.width': 3, 'sleep.until': 1,
             'sleep.share_moments': True, 'init_from': '/a/long/path/' + 40 * 'x'})  # fmt: skip
    figure = comparison_files.plot(comparison.compare(*read(tmp_path)))
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().width > 0.5


def test_nothing_to_compare_is_one_line(tmp_path):
    make_run(tmp_path / 'a', 0, 0.7)
    (tmp_path / 'a/metrics.jsonl').write_text('{"step": 1, "epoch": 1.0, "test_top1": 0.5}')
    for workdirs, message in [('a', 'no finished run .*/a is not finished'), ('b', 'matches no')]:
        with pytest.raises(UsageError, match=message):
            comparison.read(comparison.workdirs([f'{tmp_path}/{workdirs}']))
