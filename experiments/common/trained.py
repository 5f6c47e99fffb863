"""The flags that name a checkpoint of a run, and what they name."""

from absl import flags

from lcn_jax.errors import UsageError
from lcn_jax.trained.load import Trained
from lcn_jax.trained.load import load as load_network
from lcn_jax.training.restore import Restored, read_config, restore

WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of a run, a file, or the name of a network.', required=True
)
CHECKPOINT = flags.DEFINE_string('checkpoint', 'latest', "'latest', 'best', or a step.")
DATA_DIR = flags.DEFINE_string('data_dir', None, "Replaces the run's own config.data_dir.")


def load() -> Trained:
    """The network; UsageError if there is none."""
    return load_network(WORKDIR.value, CHECKPOINT.value, DATA_DIR.value)


def restore_local() -> Restored:
    """The run; UsageError if there is none, or it has no local kernels."""
    if read_config(WORKDIR.value).connectivity != 'lc':
        raise UsageError(
            f'the network in {WORKDIR.value} has no local kernels: choose a run with '
            'config.connectivity=lc.'
        )
    return restore(WORKDIR.value, CHECKPOINT.value, DATA_DIR.value)
