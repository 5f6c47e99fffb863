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

    sleep_every: 0 for a network that never sleeps; sleep_until: no sleep comes later. Every epoch
    ends in a record, and the last step in every event but a sleep.
    """

    total_steps: int
    steps_per_epoch: int
    sleep_every: int
    sleep_until: int
    log_every: int
    evaluate_every: int
    save_every: int

    @classmethod
    def of(cls, config: ml_collections.ConfigDict, steps_per_epoch: int) -> 'Schedule':
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
        )

    def next_stop(self, step: int) -> int:
        """The next step after `step` at which something may happen."""
        intervals = [self.steps_per_epoch, self.log_every, self.save_every]
        if self.sleep_every and step < self.sleep_until:
            intervals.append(self.sleep_every)
        multiples = [(step // interval + 1) * interval for interval in intervals]
        return min(step + LONGEST_STRETCH, *multiples)

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
        return asleep and step % self.sleep_every == 0
