"""The flags that name a checkpoint of a run, and the config and the snapshot that they name."""

from absl import flags
from ml_collections import ConfigDict

from lcn_jax.errors import UsageError
from lcn_jax.training import checkpoint
from lcn_jax.training.checkpoint import Snapshot
from lcn_jax.training.experiment import Experiment

WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder that experiments.train wrote.', required=True
)
CHECKPOINT = flags.DEFINE_string('checkpoint', 'latest', "'latest', 'best', or a step.")
DATA_DIR = flags.DEFINE_string('data_dir', None, "Replaces the run's own config.data_dir.")


def read_config() -> ConfigDict:
    """The config of the run; UsageError if the folder holds none."""
    config = checkpoint.read_config(WORKDIR.value)
    if DATA_DIR.value is not None:
        config.data_dir = DATA_DIR.value
    return config


def read_local_config() -> ConfigDict:
    """`read_config` for local kernels, which stay whole; UsageError if the run has none."""
    config = read_config()
    if config.connectivity != 'lc':
        raise UsageError(
            f'the network in {WORKDIR.value} has no local kernels: choose a run with '
            'config.connectivity=lc.'
        )
    config.shard_kernels = False
    return config


def restore(experiment: Experiment) -> tuple[int, Snapshot]:
    """The step and the snapshot of the checkpoint; UsageError if there is none."""
    with checkpoint.Checkpoints(WORKDIR.value, read_only=True) as checkpoints:
        step = checkpoints.find(CHECKPOINT.value)
        return step, checkpoints.restore(step, experiment.shapes)
