"""The flags that name a checkpoint of a trained network, and the checkpoint they name."""

from absl import flags

from lcn_jax.training import checkpoint
from lcn_jax.training.checkpoint import Snapshot
from lcn_jax.training.experiment import Experiment

WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder that experiments.train wrote.', required=True
)
CHECKPOINT = flags.DEFINE_string('checkpoint', 'latest', "'latest', 'best', or a step.")


def restore(experiment: Experiment) -> tuple[int, Snapshot]:
    """The step and the snapshot of the checkpoint; UsageError if there is none."""
    with checkpoint.Checkpoints(WORKDIR.value, read_only=True) as checkpoints:
        step = checkpoints.find(CHECKPOINT.value)
        return step, checkpoints.restore(step, experiment.shapes)
