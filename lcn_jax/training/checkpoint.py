"""Checkpoints, by orbax: the latest two and the best, written while training goes on.

    WORKDIR/config.json         what the run was asked for
    WORKDIR/checkpoints/STEP/   a `Snapshot` at the end of a step

A workdir belongs to one config, and is shared by all processes of a run.
"""

import json
import os
import warnings
from collections.abc import Mapping
from typing import Any

import flax.struct
import flax.traverse_util
import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from lcn_jax.errors import UsageError, writing
from lcn_jax.training.metrics import Sums
from lcn_jax.training.state import TrainState

# What a resumed run may change: nothing that is computed or logged depends on these.
FREE = ('checkpoint_every', 'data_dir', 'tensorboard', 'workers')

ACCURACY, NOT_EVALUATED = 'top1', -1.0


@flax.struct.dataclass
class Snapshot:
    """All that a resume needs besides the config, as numpy arrays: which images come next, and
    every random number, follow from the step.

    state: one copy of what all devices hold, so that their number may change. sums: metrics since
    the last record. best: highest accuracy evaluated so far. seconds: of training.
    """

    state: TrainState
    sums: Sums
    best: float
    seconds: float

    @classmethod
    def start(cls, state: TrainState) -> 'Snapshot':
        """That of a run before its first step."""
        return cls(state, jax.device_get(Sums.zero()), np.float64(NOT_EVALUATED), np.float64(0))


class Checkpoints:
    """The checkpoints of a workdir; a context that waits for what is being written.

    Making it, saving, and leaving the context raise UsageError if something cannot be written;
    checkpoints written before stay as they are.
    """

    def __init__(self, workdir: str, read_only: bool = False):
        self._folder = _folder(workdir)

        def accuracy(evaluated):
            return evaluated[ACCURACY]

        options = ocp.CheckpointManagerOptions(
            # Two, so that one is left if the latest is damaged.
            preservation_policy=AnyPreservationPolicy(
                [LatestN(2), BestN(get_metric_fn=accuracy, n=1)]
            ),
            best_fn=accuracy,  # or orbax does not store it
            create=not read_only,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        with writing(self._folder):
            self._manager = ocp.CheckpointManager(
                self._folder,
                # Weights hardly shrink, and compressing them is what takes the time.
                item_handlers={'snapshot': ocp.PyTreeCheckpointHandler(use_compression=False)},
                options=options,
            )

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        try:
            with writing(self._folder):
                self._manager.wait_until_finished()
        except UsageError:
            if error is None:  # else that comes first
                raise
        self._manager.close()

    def save(self, step: int, snapshot: Snapshot, accuracy: float) -> None:
        """Starts writing; `accuracy` is that of the snapshot, or NOT_EVALUATED."""
        with writing(self._folder):
            self._manager.save(
                step,
                args=ocp.args.Composite(snapshot=ocp.args.PyTreeSave(snapshot)),
                metrics={ACCURACY: accuracy},
                force=True,  # whatever orbax thinks of the step, or of a signal
            )

    def latest(self, shapes: TrainState) -> Snapshot | None:
        """The latest that can be read, or None if there are none.

        Later ones are damaged: once an earlier one has been read they are deleted, with a warning,
        for the run will write them again.

        Raises:
          UsageError: there are checkpoints but none can be read.
        """
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                snapshot = self.restore(step, shapes)
            except UsageError as e:
                damaged.append((step, e))
                continue
            for later, reason in damaged:
                warnings.warn(f'{reason} Going back to step {step}.', stacklevel=2)
                self._manager.delete(later)
            return snapshot
        if damaged:
            raise UsageError(
                f'none of the checkpoints in {self._folder} can be read: delete the folder to '
                f'train from the start. {damaged[0][1]}'
            )
        return None

    def find(self, which: str) -> int:
        """The step of the checkpoint called 'latest', 'best' or by its step.

        Raises:
          UsageError: there is none, or, for 'best', none that was evaluated.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise UsageError(f'there is no checkpoint in {self._folder}.')
        if which == 'latest':
            return steps[-1]
        if which == 'best':
            best = self._manager.best_step()
            if self._manager.metrics(best)[ACCURACY] == NOT_EVALUATED:
                raise UsageError(f'no checkpoint in {self._folder} has been evaluated yet.')
            return best
        if which not in map(str, steps):
            raise UsageError(
                f'there is no checkpoint {which!r} in {self._folder}; there are latest, best, '
                f'{", ".join(map(str, steps))}.'
            )
        return int(which)

    def restore(self, step: int, shapes: TrainState) -> Snapshot:
        """The snapshot of a step; `shapes` is a state of arrays or `jax.ShapeDtypeStruct`s.

        Raises:
          UsageError: it cannot be read.
        """
        like = Snapshot.start(jax.tree.map(lambda s: np.empty(s.shape, s.dtype), shapes))
        try:
            args = ocp.args.Composite(snapshot=ocp.args.PyTreeRestore(like))
            return self._manager.restore(step, args=args).snapshot
        except Exception as e:  # a damaged checkpoint fails in many ways
            reason = str(e).partition('\n')[0][:200]
            raise UsageError(
                f'the checkpoint {self._folder}/{step} cannot be read ({reason}).'
            ) from e


def claim(workdir: str, config: ml_collections.ConfigDict) -> None:
    """Writes the config, unless the workdir has checkpoints of another one: a UsageError."""
    path = _config_path(workdir)
    if latest_step(workdir) is not None:
        check_same(workdir, config)
    if jax.process_index() == 0:
        with writing(path):
            with open(path + '.part', 'w') as file:
                file.write(_as_json(config))
            os.replace(path + '.part', path)


def check_same(workdir: str, config: ml_collections.ConfigDict) -> None:
    """UsageError if the config in the workdir is another one."""
    path = _config_path(workdir)
    if not os.path.exists(path):
        return
    with open(path) as file:
        differing = _differences(json.load(file), json.loads(_as_json(config)))
    if differing:
        raise UsageError(
            f'{workdir} holds a run with another config ({"; ".join(differing)}): choose '
            'another workdir, or delete it.'
        )


def latest_step(workdir: str) -> int | None:
    """The step of the latest checkpoint, whether or not it can be read, or None."""
    folder = _folder(workdir)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return max((int(name) for name in names if name.isdigit()), default=None)


def read_config(workdir: str) -> ConfigDict:
    """The config of the run in a workdir; UsageError if there is none."""
    path = _config_path(workdir)
    if not os.path.exists(path):
        raise UsageError(f'{workdir} holds no run: there is no {path}.')
    with open(path) as file:
        return ConfigDict(json.load(file))


def _folder(workdir: str) -> str:
    return os.path.join(os.path.abspath(workdir), 'checkpoints')


def _as_json(config: ml_collections.ConfigDict) -> str:
    return config.to_json_best_effort(indent=1) + '\n'


def _config_path(workdir: str) -> str:
    return os.path.join(workdir, 'config.json')


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """One phrase for each field that differs, but for those that are free."""
    there, here = (flax.traverse_util.flatten_dict(config, sep='.') for config in (there, here))
    return [
        f'{field} is {there.get(field)} there, {here.get(field)} here'
        for field in sorted(there.keys() | here.keys())
        if field not in FREE and there.get(field) != here.get(field)
    ]
