"""The table that compares runs, from records made up by hand."""

import json

import pytest
import tiny_runs

from experiments.reports import comparison
from lcn_jax.errors import UsageError


def make_run(folder, seed, accuracy, **changes):
    config = tiny_runs.get_config('resident')
    config.seed = seed
    config.update_from_flattened_dict(changes)
    folder.mkdir()
    (folder / 'config.json').write_text(config.to_json_best_effort())
    last = {'step': 9, 'epoch': config.epochs, 'test_top1': accuracy, 'seconds': 10.0 + seed}
    records = [{'step': 1, 'epoch': 0.5, 'test_top1': 0.5}, last | {'weight_deviation': 0.25}]
    (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, records)))


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
    assert head == '| sleep.every | test top-1 % | n | weight deviation | s / run |'
    assert rows == ['| 2 | 80.0 | 1 | 0.25 | 10 |', '| 7 | 72.0 ± 2.8 | 2 | 0.25 | 10 |']


def test_a_cut_off_record_does_not_count_and_splits_may_differ(tmp_path):
    """Runs with images held out have another accuracy, and the column says so."""
    make_run(tmp_path / 'a', 0, 0.7)
    make_run(tmp_path / 'b', 0, 0.6, validation=10)
    log = tmp_path / 'b/metrics.jsonl'
    log.write_text(log.read_text().replace('test_top1', 'validation_top1') + '\n{"step": 1')
    compared = comparison.compare(comparison.read([f'{tmp_path}/*']))
    head, _, *rows = comparison.markdown(compared).splitlines()
    assert head.startswith('| validation | test/validation top-1 % |')
    assert [row[:11] for row in rows] == ['| 0 | 70.0 ', '| 10 | 60.0']


def test_what_cannot_be_compared_is_one_line(tmp_path):
    make_run(tmp_path / 'a', 0, 0.7)
    (tmp_path / 'a/metrics.jsonl').write_text('{"step": 1, "epoch": 1.0, "test_top1": 0.5}')
    for workdirs, message in [('a', 'is not finished'), ('b', 'matches no folder')]:
        with pytest.raises(UsageError, match=message):
            comparison.read([f'{tmp_path}/{workdirs}'])
