"""What a run has left in its workdir: its config, its experiment, and the state of a checkpoint."""

from typing import NamedTuple

from ml_collections import ConfigDict

from lcn_jax.training import checkpoint
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.state import TrainState


class Restored(NamedTuple):
    """config: of the run. experiment, state: of numpy arrays; both with whole kernels."""

    config: ConfigDict
    experiment: Experiment
    step: int
    state: TrainState


def restore(workdir: str, which: str = 'latest', data_dir: str | None = None) -> Restored:
    """A run at a checkpoint: 'latest', 'best' or the number of a step.

    data_dir: replaces config.data_dir. UsageError if there is no run or no such checkpoint.
    """
    config = checkpoint.read_config(workdir)
    if data_dir is not None:
        config.data_dir = data_dir
    whole = config.copy_and_resolve_references()
    whole.shard_kernels = False
    experiment = Experiment.create(whole)
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        step = checkpoints.find(which)
        return Restored(
            config, experiment, step, checkpoints.restore(step, experiment.shapes).state
        )
