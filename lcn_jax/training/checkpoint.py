"""Checkpoints by orbax: the latest two and the best, written while training continues.

    WORKDIR/config.json         the config of the run
    WORKDIR/checkpoints/STEP/   a `Snapshot` at the end of a step

A workdir belongs to one config, and one run at a time writes to it (`ownership.py`). All processes
of a run share it. It may be a URL.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import flax.struct
import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from lcn_jax.errors import NotWritten, UsageError
from lcn_jax.files import locate, names_in, read_json, reading, write_text, writing
from lcn_jax.layer.backends import divided
from lcn_jax.training import config as configs
from lcn_jax.training.metrics import Sums
from lcn_jax.training.state import State01, TrainState

# Of a path, whose keys are of other kinds in orbax' metadata.
_name = functools.partial(jax.tree_util.keystr, simple=True, separator='/')

# A resumed run may change these: nothing that is computed or logged depends on them. (With
# shard_kernels, sums are rounded otherwise, as they are on another number of devices.)
MAY_CHANGE_ON_RESUME = (
    'checkpoint_every', 'data_dir', 'profile', 'report', 'shard_kernels', 'tensorboard', 'workers',
)  # fmt: skip

# A warning of orbax, though we ask for just that.
logging.getLogger('absl').addFilter(lambda record: 'directory is read only' not in str(record.msg))

ACCURACY, NOT_EVALUATED = 'top1', -1.0


@flax.struct.dataclass
class Snapshot:
    """Everything that a resume needs besides the config.

    The next images and every random number follow from the step.

    state: one copy of the state that all devices hold, so that their number may change, as numpy
    arrays; before it is written, kernels that the devices divide are arrays over them
    (`sharding.snapshot`), of which each process writes its own. sums: metrics since the last
    record. best: highest accuracy evaluated so far. seconds: of training.
    """

    state: Any
    sums: Sums
    best: float
    seconds: float

    @classmethod
    def of(cls, state: Any) -> 'Snapshot':
        """A state without metrics."""
        return cls(state, jax.device_get(Sums.zero()), np.float64(NOT_EVALUATED), np.float64(0))


class Checkpoints:
    """The checkpoints of a workdir; a context that ends when the last of them is written.

    Making it, saving, checking, and leaving the context raise UsageError if something cannot be
    written; earlier checkpoints stay as they are.
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
            # Or its threads wait 5 minutes for a folder that cannot be made.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            create=not read_only,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            save_interval_steps=0 if read_only else 1,
        )
        with reading(self._folder) if read_only else writing(self._folder):
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
                self._manager.close()  # waits for what is being written
        except UsageError:
            if error is None:  # otherwise the original error propagates
                raise

    def save(self, step: int, snapshot: Snapshot, accuracy: float) -> None:
        """Starts writing; `accuracy` is the snapshot's, or NOT_EVALUATED."""
        with writing(self._folder):
            self._manager.save(
                step,
                args=ocp.args.Composite(snapshot=ocp.args.PyTreeSave(snapshot)),
                metrics={ACCURACY: accuracy},
                force=True,  # even if orbax would skip this step, or has seen a signal
            )

    def check(self) -> None:
        """Raises the error of the last save, if it has failed by now."""
        if not self._manager.is_saving_in_progress():
            with writing(self._folder):
                self._manager.wait_until_finished()

    def latest(self, shapes: TrainState) -> Snapshot | None:
        """The latest checkpoint that can be read, or None if there are none.

        Damaged later ones are deleted, with a warning, once an earlier one has been read: the run
        will write them again.

        Raises:
          UsageError: there are checkpoints but none can be read.
        """
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            with reading(self._folder):  # or it would be taken for a damaged one
                list((self._folder / str(step)).iterdir())
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
        """The step of a checkpoint: 'latest', 'best', or a step itself.

        Raises:
          UsageError: there is no such checkpoint, or, for 'best', none has been evaluated.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise UsageError(f'there is no checkpoint in {self._folder}.')
        if which == 'latest':
            return steps[-1]
        if which == 'best':
            best = self._manager.best_step()
            if best is None or (self._manager.metrics(best) or {})[ACCURACY] == NOT_EVALUATED:
                raise UsageError(f'no checkpoint in {self._folder} has been evaluated yet.')
            return best
        if which not in map(str, steps):
            raise UsageError(
                f'there is no checkpoint {which!r} in {self._folder}; choose latest, best, or one '
                f'of {", ".join(map(str, steps))}.'
            )
        return int(which)

    def _read(self, step: int, like: Snapshot, stored_as: Any) -> Snapshot:
        """With whole kernels; stored_as: orbax' metadata."""
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
        args = ocp.args.PyTreeRestore(like, restore_args=as_numpy)
        stored = self._manager.restore(step, args=ocp.args.Composite(snapshot=args))['snapshot']
        arrays = jax.tree_util.tree_leaves_with_path(stored_as)  # over devices: those they divided
        divides = {_name(path) for path, array in arrays if array.sharding is not None}

        def whole(path, array, like):
            parts = _name(path) in divides or array.shape != like.shape
            return divided.whole(array, like.shape) if parts else array

        return jax.tree_util.tree_map_with_path(whole, stored, like)

    def restore(self, step: int, shapes: TrainState) -> Snapshot:
        """The snapshot of a step; `shapes` is a state of arrays or `jax.ShapeDtypeStruct`s.

        Raises:
          UsageError: the checkpoint cannot be read.
        """
        like = jax.tree.map(lambda s: np.empty(s.shape, s.dtype), shapes)
        try:
            metadata = self._manager.item_metadata(step)['snapshot']
            if metadata is None:
                raise ValueError('its metadata is missing')
            if 'last_sleep' in metadata.tree['state']:
                return self._read(step, Snapshot.of(like), metadata.tree)
            stored = self._read(step, Snapshot.of(State01.like(like)), metadata.tree)
            return dataclasses.replace(stored, state=stored.state.converted(like))
        except (OSError, ValueError, KeyError) as e:  # how damaged checkpoints fail
            reason = str(e).partition('\n')[0][:200]
            raise UsageError(
                f'the checkpoint {self._folder}/{step} cannot be read ({reason}).'
            ) from e


@contextlib.contextmanager
def claim(workdir: str, config: ConfigDict, steps_per_epoch: int | None = None) -> Iterator[None]:
    """A context in which a run of this config has the workdir, and keeps its config there.

    This process owns the workdir (`ownership.py`). With `steps_per_epoch`, a run that is finished
    may go on for more epochs.

    Raises:
      UsageError: it has checkpoints of another config, or cannot be written.
    """
    if latest_step(workdir) is not None:
        check_same(workdir, config, steps_per_epoch)
    try:
        if jax.process_index() == 0:
            write_text(_config_path(workdir), _as_json(config))
        yield
    except NotWritten as error:
        raise UsageError(f'{error} It continues from the last checkpoint, if any.') from error


def check_same(workdir: str, config: ConfigDict, steps_per_epoch: int | None = None) -> None:
    """UsageError if the workdir has the config of another run; see `claim`."""
    if not _config_path(workdir).exists():
        return
    there, here = (json.loads(_as_json(c)) for c in (read_config(workdir), config))
    is_finished = steps_per_epoch and latest_step(workdir) == there['epochs'] * steps_per_epoch
    if is_finished and here['epochs'] > there['epochs']:
        there['epochs'] = here['epochs']
    differing = _differences(there, here)
    if differing:
        raise UsageError(
            f'{workdir} holds a run with another config ({"; ".join(differing)}): set '
            'these fields as they are there to continue it, or choose another workdir.'
        )


def latest_step(workdir: str) -> int | None:
    """The step of the latest checkpoint, whether or not it can be read, or None."""
    names = names_in(_folder(workdir))
    return max((int(name) for name in names if name.isdigit()), default=None)


def read_config(workdir: str) -> ConfigDict:
    """The config of the run in a workdir; UsageError if there is none."""
    path = _config_path(workdir)
    if path.name not in names_in(path.parent):
        raise UsageError(f'{workdir} holds no run: there is no {path}.')
    remedy = 'delete it, and the command that trained the run writes it again'
    return configs.complete(read_json(path, remedy))


def _folder(workdir: str) -> epath.Path:
    return locate(workdir) / 'checkpoints'


def _config_path(workdir: str) -> epath.Path:
    return locate(workdir) / 'config.json'


def _as_json(config: ConfigDict) -> str:
    return config.to_json_best_effort(indent=1) + '\n'


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """A phrase for each field that differs, except those that may."""
    there, here = (flax.traverse_util.flatten_dict(config, sep='.') for config in (there, here))
    return [
        f'{field} is {there.get(field)} there, {here.get(field)} here'
        for field in sorted(there.keys() | here.keys())
        if field not in MAY_CHANGE_ON_RESUME and there.get(field) != here.get(field)
    ]
