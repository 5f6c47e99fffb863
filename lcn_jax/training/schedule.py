"""When a run sleeps, logs, evaluates and saves: arithmetic on step numbers, nothing else."""

import dataclasses
from typing import NamedTuple

import ml_collections

LONGEST_STRETCH = 10  # steps between two looks at whether the run was asked to stop


class Events(NamedTuple):
    """The events at the end of a step, in this order."""

    sleep: bool
    log: bool
    evaluate: bool  # only where it logs
    save: bool


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Everything is counted in steps; the first step is number 1.

    sleep_every: 0 for a network that never sleeps; sleep_until: no sleep comes later. layers: that
    sleep by turns (`turns`), 1 if all sleep together. Every epoch ends in a record, and the last
    step in every event but a sleep.
    """

    total_steps: int
    steps_per_epoch: int
    sleep_every: int
    sleep_until: int
    log_every: int
    evaluate_every: int
    save_every: int
    layers: int = 1

    @classmethod
    def of(
        cls, config: ml_collections.ConfigDict, steps_per_epoch: int, layers: int = 1
    ) -> 'Schedule':
        """The schedule that `config` describes, for epochs of `steps_per_epoch` steps."""
        total_steps = config.epochs * steps_per_epoch
        return cls(
            total_steps=total_steps,
            steps_per_epoch=steps_per_epoch,
            sleep_every=0 if config.sleep.rule == 'none' else config.sleep.every,
            sleep_until=config.sleep.until * steps_per_epoch or total_steps,
            log_every=config.log_every,
            evaluate_every=config.evaluate_every * steps_per_epoch,
            save_every=config.checkpoint_every or total_steps,
            layers=layers,
        )

    def next_stop(self, step: int) -> int:
        """The next step after `step` at which something may happen."""
        intervals = [self.steps_per_epoch, self.log_every, self.save_every]
        stops = [(step // interval + 1) * interval for interval in intervals]
        if self.sleep_every and step < self.sleep_until:
            stops.append(self.next_sleep(step))
        return min(step + LONGEST_STRETCH, *stops)

    def next_sleep(self, step: int) -> int:
        """The next step after `step` after which layers sleep, if sleeps go on."""
        period, (first, *later) = step // self.sleep_every, turns(self.sleep_every, self.layers)
        following = [first, *later, self.sleep_every + first]
        return next(s for turn in following if (s := period * self.sleep_every + turn) > step)

    def events(self, step: int, stopping: bool = False) -> Events:
        """The events at the end of `step`, after which the run may be `stopping`."""
        last = step == self.total_steps
        return Events(
            sleep=self._sleeps(step),
            log=step % self.log_every == 0 or step % self.steps_per_epoch == 0,
            evaluate=last or step % self.evaluate_every == 0,
            save=last or stopping or step % self.save_every == 0,
        )

    def _sleeps(self, step: int) -> bool:
        asleep = self.sleep_every > 0 and step <= self.sleep_until
        return asleep and self.next_sleep(step - 1) == step


def turns(every: int, layers: int) -> list[int]:
    """After which of the steps 1 to `every` each of the layers sleeps: evenly spread.

    A single layer, and the last of several, sleep after the step `every`.
    """
    return [-(-every * number // layers) for number in range(1, layers + 1)]
