"""The state that a run begins with: of its latest checkpoint, with another run's weights, or fresh.

`config.init_from` names the other run, WORKDIR or WORKDIR@CHECKPOINT, or a network in a file or of
the package. A module gets its weights and statistics from the module of the same name, if all of
them have the same shapes there. A module that is local here may be shared there: then all positions
get the shared kernel. Other modules start fresh, and so do the optimizer and the learning rate.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from lcn_jax.errors import UsageError
from lcn_jax.layer.local_parameters import by_path, name_of
from lcn_jax.training import parallel
from lcn_jax.training.checkpoint import Checkpoints, Snapshot
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.restore import read_config, restore
from lcn_jax.training.state import TrainState


def start(
    checkpoints: Checkpoints, experiment: Experiment, key: jax.Array
) -> tuple[TrainState, Snapshot]:
    """The state on the devices, and its snapshot; `key` is that of the initialisation."""
    saved = checkpoints.latest(experiment.shapes)
    if saved is not None:
        return experiment.place(saved.state), saved
    if experiment.config.init_from:
        fresh = jax.device_get(jax.jit(experiment.initial_state)(key))
        whole = inherit(fresh, experiment)
        return experiment.place(whole), Snapshot.of(whole)
    fresh = experiment.init(parallel.replicate(key))
    return fresh, Snapshot.of(experiment.snapshot(fresh))


def inherit(fresh: TrainState, experiment: Experiment) -> TrainState:
    """A state of numpy arrays with the weights of `config.init_from`.

    Raises:
      UsageError: there is no such run or checkpoint, or no module fits.
    """
    init_from = experiment.config.init_from
    other = restore(*named(init_from)).state.variables
    own, theirs = _arrays(fresh.variables), _arrays(other)
    taken = _that_fit(own, theirs, experiment.network.grids, init_from)
    for path, array in own.items():
        if path[1:-1] in taken:
            own[path] = np.array(np.broadcast_to(theirs[path], array.shape))
    return jax.device_get(jax.jit(experiment.state_of)(unflatten_dict(own)))


def inherited(experiment: Experiment) -> tuple[list[str], list[str]]:
    """The modules that start with the weights of `config.init_from`, and those that start fresh.

    Raises:
      UsageError: there is no such run, or no module fits.
    """
    init_from = experiment.config.init_from
    other = Experiment.create(read_config(named(init_from)[0])).shapes.variables
    own, theirs = _arrays(experiment.shapes.variables), _arrays(other)
    taken = _that_fit(own, theirs, experiment.network.grids, init_from)
    modules = dict.fromkeys(path[1:-1] for path in own)
    fresh = [name_of(module) for module in modules if module not in taken]
    return [name_of(module) for module in modules if module in taken], fresh


def named(init_from: str) -> tuple[str, str]:
    """WORKDIR@CHECKPOINT -> the workdir, and 'latest', 'best' or a step; 'latest' without it."""
    workdir, _, which = init_from.rpartition('@')
    names_checkpoint = workdir and (which in ('latest', 'best') or which.isdigit())
    return (workdir, which) if names_checkpoint else (init_from, 'latest')


def _arrays(variables: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """By path, with the collection in front."""
    return flatten_dict(dict(variables))


def _that_fit(
    own: Mapping, theirs: Mapping, grids: Mapping, init_from: str
) -> set[tuple[str, ...]]:
    """The modules all of whose arrays have the same shape there, or that of one position."""
    of_one_position = {
        ('params', *path): own['params', *path].shape[local.dimensions :]
        for path, local in by_path(grids).items()
        if not local.ensemble
    }
    fitting = {path[1:-1] for path in own} - {
        path[1:-1]
        for path, array in own.items()
        if path not in theirs or theirs[path].shape not in (array.shape, of_one_position.get(path))
    }
    if not fitting:
        raise UsageError(
            f'config.init_from={init_from}: no module there has the name and the '
            'shapes of one of this network.'
        )
    return fitting
