"""What a person sees while a run gets on, from records made by hand."""

import sys
from types import SimpleNamespace

import pytest

from lcn_jax.training import progress

WHOLE = {'total_steps': 1000, 'batch_size': 50, 'resumed_at': 100, 'train_top1': 0.5}


def record(step, seconds, **more):
    return WHOLE | {'step': step, 'seconds': seconds, 'train_loss': 2.0, **more}


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still unless it is set."""
    clock = [0.0]
    monkeypatch.setattr(progress, 'time', SimpleNamespace(monotonic=lambda: clock[0]))
    return clock


def test_lines_tell_loss_accuracy_pace_and_the_time_left(now, capsys):
    show = progress.Progress('digits lc')
    show(record(100, 10.0, test_top1=0.25))  # from before the run went on
    assert capsys.readouterr().out == ''
    show(record(200, 30.0))
    assert capsys.readouterr().out == (
        'digits lc  step 200/1000  loss 2.000  train 50.0%  test 25.0%  250 images/s  '
        '0:02:40 left\n'
    )
    show(record(300, 40.0))  # too soon
    assert capsys.readouterr().out == ''
    now[0] = 10.0
    show(record(400, 50.0, validation_top1=0.75))
    # 200 steps in 20 s since the last line; 300 in 40 s since the run went on.
    assert capsys.readouterr().out == (
        'digits lc  step 400/1000  loss 2.000  train 50.0%  validation 75.0%  500 images/s  '
        '0:01:20 left\n'
    )
    show(record(1000, 100.0))  # the last is never too soon
    assert '  step 1000/1000  ' in capsys.readouterr().out


def test_a_terminal_gets_a_bar_that_begins_where_the_run_does(now, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    show = progress.Progress('digits lc')
    for step in (100, 200, 1000):
        show(record(step, step / 10))
    shown = capsys.readouterr()
    assert shown.out == ''
    last = shown.err.replace('\r', '\n').splitlines()[-1]
    assert last.startswith('digits lc: 100%') and '1000/1000' in last and '500 images/s' in last


def test_a_run_that_diverged_is_not_shown(now, capsys):
    diverged = record(200, 0.0)
    del diverged['seconds']
    progress.Progress('digits lc')(diverged)
    assert capsys.readouterr().out == ''


def test_durations():
    assert [progress.duration(s) for s in (0.4, 61.6, 3723)] == ['0:00:00', '0:01:02', '1:02:03']
