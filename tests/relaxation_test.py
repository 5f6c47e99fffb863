"""The picture of relaxed networks: which runs are read, and what is drawn of them."""

import json

import pytest

from experiments.reports import relaxation
from lcn_jax.errors import UsageError


def make_run(folder, accuracy):
    folder.mkdir()
    (folder / 'done.json').write_text('{}')
    records = [
        {'step': 10, 'epoch': 1.0, 'test_top1': 0.5, 'weight_deviation': 0.1},
        {'step': 15, 'epoch': 1.5, 'weight_deviation': 0.9},
        {'step': 20, 'epoch': 2.0, 'test_top1': accuracy, 'weight_deviation': 0.3},
    ]
    (folder / 'metrics.jsonl').write_text(''.join(f'{json.dumps(record)}\n' for record in records))


def test_accuracy_by_epoch_and_deviation_over_time(tmp_path):
    for name, accuracy in (('relax1', 0.7), ('relax_never', 0.8)):
        for seed in range(2):
            make_run(tmp_path / f'{name}-{seed}', accuracy + 0.02 * seed)
    make_run(tmp_path / 'conv-0', 0.9)
    runs = relaxation.read(tmp_path)
    assert {epoch: len(of_epoch) for epoch, of_epoch in runs.items()} == {1: 2, 2: 2}
    left, right = relaxation.draw(runs).axes
    (mean,) = (line for line in left.lines if line.get_marker() != '.')
    assert list(mean.get_xdata()) == [1, 2]
    assert mean.get_ydata() == pytest.approx([71, 81])
    assert [list(line.get_ydata()) for line in right.lines] == [pytest.approx([0.1, 0.3])] * 2


def test_a_folder_without_runs_is_one_line(tmp_path):
    with pytest.raises(UsageError, match='no finished runs of relax1'):
        relaxation.read(tmp_path)
