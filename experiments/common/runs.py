"""Many runs in one folder, which is all that the processes that train them share.

    OUT/RUN/                a workdir
    OUT/RUN/done.json       of a finished run: its last record and its provenance
    OUT/RUN/failed.json     of one that failed: the reason

A run has ended if it has one of the two files. It is taken if a process owns its workdir, and free
otherwise: a process that dies leaves a free run, which goes on from its last checkpoint.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.common.provenance import provenance
from lcn_jax.errors import InUse, UsageError
from lcn_jax.files import from_json, read_json, to_json, write_text
from lcn_jax.training import checkpoint, ownership
from lcn_jax.training import config as configs
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.measures import evaluated_split
from lcn_jax.training.metrics import Report
from lcn_jax.training.train import train

DONE, FAILED = 'done.json', 'failed.json'
LONGEST_RECORD = 4096  # bytes
REMEDY = 'delete it, and run the same command again'


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs that a command is to train.

    out: their folder. configs: by the names of their workdirs in it.
    """

    out: str
    configs: Mapping[str, ConfigDict]

    def workdir(self, name: str) -> str:
        return os.path.join(self.out, name)

    def check(self) -> None:
        """UsageError if a config is not valid, or a workdir has checkpoints of another one."""
        for name, config in self.configs.items():
            configs.check(config)
            workdir = self.workdir(name)
            if has(workdir, DONE) or checkpoint.latest_step(workdir) is not None:
                checkpoint.check_same(workdir, config)

    def left(self, names: Iterable[str] | None = None) -> list[str]:
        """Of these runs, or of all, those that have not ended, in their order."""
        names = self.configs if names is None else names
        return [name for name in names if not has_ended(self.workdir(name))]

    def outcome(self, name: str) -> str:
        """How a run has ended, in words."""
        workdir = self.workdir(name)
        if has(workdir, FAILED):
            return f'failed: {reason(workdir)}'
        record = read_done(workdir)
        accuracy = record[f'{evaluated_split(self.configs[name])}_top1']
        return f'accuracy {accuracy:.1%}  {record["seconds"]:.0f} s'

    def progress(self, name: str) -> float:
        """The part of its training of which a run has records."""
        path = os.path.join(self.workdir(name), 'metrics.jsonl')
        with contextlib.suppress(FileNotFoundError, ValueError), open(path, 'rb') as file:
            file.seek(max(0, os.path.getsize(path) - LONGEST_RECORD))
            *_, last, _ = b'', *file.read().split(b'\n')  # what follows the last newline is cut off
            return from_json(last.decode())['epoch'] / self.configs[name].epochs
        return 0.0

    def failed(self) -> list[str]:
        """The names of the runs that failed."""
        return [name for name in self.configs if has(self.workdir(name), FAILED)]

    def forget_failures(self) -> None:
        """So that what failed is tried again."""
        for name in self.failed():
            with contextlib.suppress(FileNotFoundError):  # another process may do the same
                os.remove(os.path.join(self.workdir(name), FAILED))

    @functools.cached_property
    def _experiments(self) -> dict[str, str]:
        """The config of each run without its seed, as text."""
        return {
            name: configs.without_seed(config).to_json_best_effort(sort_keys=True)
            for name, config in self.configs.items()
        }

    @contextlib.contextmanager
    def taken(self, left: Sequence[str], last: str | None) -> Iterator[str | None]:
        """A context in which this process owns the workdir of a run, one of those `left`.

        Its name, or None if others have taken or ended all of them. Where it can choose, it takes
        one that differs from the `last` only in its seed, and so needs no new programs; else one of
        which nobody has begun such a run, to compile what nobody else does.
        """
        with contextlib.ExitStack() as stack:
            yield self._take(stack, left, last)

    def _take(
        self, stack: contextlib.ExitStack, left: Sequence[str], last: str | None
    ) -> str | None:
        same, candidates = self._experiments, list(left)
        begun = {
            same[name]
            for name in self.configs
            if name not in left or os.path.isdir(self.workdir(name))
        }
        while candidates:
            compiles = {
                name: 0 if last and same[name] == same[last] else 1 + (same[name] in begun)
                for name in candidates
            }
            name = min(candidates, key=compiles.__getitem__)
            candidates.remove(name)
            begun.add(same[name])
            with contextlib.suppress(InUse):
                stack.enter_context(ownership.owned(self.workdir(name)))
                if not has_ended(self.workdir(name)):
                    return name
                stack.close()
        return None

    def train(self, name: str, report: Report, last: Experiment | None) -> Experiment | None:
        """Trains a run, whose workdir this process owns, to its end, and notes how it ended.

        Returns:
          The experiment of the run, or `last` if it has none.

        Raises:
          Stopped: a signal came.
          UsageError: the workdir cannot be written.
        """
        config, workdir = self.configs[name], self.workdir(name)
        try:
            if last is None or last.config != configs.without_seed(config):
                last = Experiment.create(config)
            ended = DONE, train(config, workdir, report, last) | provenance()
        except UsageError as error:
            ended = FAILED, {'reason': str(error)}
        file, content = ended
        write_text(os.path.join(workdir, file), to_json(content))
        return last


def has(workdir: str, file: str) -> bool:
    return os.path.exists(os.path.join(workdir, file))


def has_ended(workdir: str) -> bool:
    return has(workdir, DONE) or has(workdir, FAILED)


def read_done(workdir: str) -> dict[str, Any]:
    """The last record and the provenance of a finished run; UsageError if it is damaged."""
    return read_json(os.path.join(workdir, DONE), REMEDY)


def reason(workdir: str) -> str:
    """Why a run failed."""
    return read_json(os.path.join(workdir, FAILED), REMEDY)['reason']
