"""The schedule, against a loop that looks at every single step."""

import pytest
from ml_collections import ConfigDict

from lcn_jax.training.schedule import LONGEST_STRETCH, Schedule

SCHEDULES = [
    Schedule(30, 10, sleep_every=7, sleep_until=30, log_every=4, evaluate_every=20, save_every=9),
    Schedule(60, 20, 0, sleep_until=60, log_every=100, evaluate_every=20, save_every=60),
    Schedule(5, 1, sleep_every=1, sleep_until=5, log_every=1, evaluate_every=3, save_every=2),
    Schedule(100, 50, 1000, sleep_until=100, log_every=1000, evaluate_every=100, save_every=1000),
    Schedule(40, 10, sleep_every=3, sleep_until=20, log_every=10, evaluate_every=10, save_every=40),
]


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_no_event_lies_between_two_stops(schedule):
    stops, step = [], 0
    while step < schedule.total_steps:
        stop = schedule.next_stop(step)
        assert step < stop <= step + LONGEST_STRETCH
        between = [schedule.events(s) for s in range(step + 1, stop)]
        assert not any(any(events) for events in between)
        assert not any(s % schedule.steps_per_epoch == 0 for s in range(step + 1, stop))
        step = stop
        stops.append(step)
    assert stops[-1] == schedule.total_steps


def steps_with(schedule, event):
    steps = range(1, schedule.total_steps + 1)
    return [step for step in steps if getattr(schedule.events(step), event)]


def test_events_by_hand():
    schedule = SCHEDULES[0]
    assert steps_with(schedule, 'sleep') == [7, 14, 21, 28]
    assert steps_with(schedule, 'log') == [4, 8, 10, 12, 16, 20, 24, 28, 30]
    assert steps_with(schedule, 'evaluate') == [20, 30]  # every second epoch, and at the end
    assert steps_with(schedule, 'save') == [9, 18, 27, 30]
    assert schedule.events(3) == (False, False, False, False)
    assert schedule.events(3, stopping=True) == (False, False, False, True)
    never = SCHEDULES[1]
    assert steps_with(never, 'sleep') == []
    assert steps_with(never, 'save') == [60]
    assert steps_with(SCHEDULES[4], 'sleep') == [3, 6, 9, 12, 15, 18]
    assert steps_with(SCHEDULES[2], 'sleep') == [1, 2, 3, 4, 5]  # also at the last step
    for schedule in SCHEDULES:  # whatever is evaluated is logged
        assert set(steps_with(schedule, 'evaluate')) <= set(steps_with(schedule, 'log'))


def config(sleep=None, **changes):
    values = {'epochs': 3, 'log_every': 4, 'evaluate_every': 2, 'checkpoint_every': 9}
    sleep = {'rule': 'mean', 'every': 7, 'until': 0} | (sleep or {})
    return ConfigDict(values | {'sleep': sleep} | changes)


def test_a_config_counts_in_epochs_and_never_sleeps_without_a_rule():
    assert Schedule.of(config(), 10) == SCHEDULES[0]
    awake = Schedule.of(config(sleep={'rule': 'none'}, checkpoint_every=0), 10)
    assert awake.sleep_every == 0
    assert awake.save_every == awake.total_steps == 30
    assert Schedule.of(config(sleep={'until': 2}), 10).sleep_until == 20
