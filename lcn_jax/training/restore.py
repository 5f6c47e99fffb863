"""What a run has left, in its workdir or in a file: its config, its experiment and its state."""

from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from lcn_jax.training import checkpoint, network_file
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.state import TrainState


class Restored(NamedTuple):
    """config: of the run. experiment, state: of numpy arrays; both with whole kernels."""

    config: ConfigDict
    experiment: Experiment
    step: int
    state: TrainState


def read_config(workdir: str) -> ConfigDict:
    """The config of a run, or of a network in a file or of the package; UsageError if none."""
    path = network_file.find(workdir)
    return network_file.read(path).config if _is_file(path) else checkpoint.read_config(path)


def restore(workdir: str, which: str = 'latest', data_dir: str | None = None) -> Restored:
    """A run at a checkpoint: 'latest', 'best' or the number of a step.

    workdir: also a file with a network, or the name of a pretrained one; the state is then that of
    a run which starts with its weights. data_dir: replaces config.data_dir. UsageError if there is
    no such run, file or checkpoint.
    """
    path = network_file.find(workdir)
    file = network_file.read(path) if _is_file(path) else None
    config = file.config if file else checkpoint.read_config(path)
    if data_dir is not None:
        config.data_dir = data_dir
    whole = config.copy_and_resolve_references()
    whole.shard_kernels = False
    experiment = Experiment.create(whole)
    if file:
        state = jax.device_get(jax.jit(experiment.state_of)(file.variables))
        return Restored(config, experiment, file.step, state)
    with checkpoint.Checkpoints(path, read_only=True) as checkpoints:
        step = checkpoints.find(which)
        return Restored(
            config, experiment, step, checkpoints.restore(step, experiment.shapes).state
        )


def _is_file(path: str) -> bool:
    """Whether it is a network in a file, and no workdir."""
    return path.endswith('.npz')
