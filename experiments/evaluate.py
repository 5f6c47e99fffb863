"""Evaluates a checkpoint of a run: prints its step and metrics as a line of JSON.

    python -m experiments.evaluate --workdir=runs/cifar10 --checkpoint=best

The metrics are those that training logged at that step, if it ended an epoch.
"""

import json

import jax
from absl import flags

from experiments.common import cli
from lcn_jax.training import checkpoint, parallel, train

WORKDIR = flags.DEFINE_string('workdir', None, 'Folder that experiments.train wrote.')
CHECKPOINT = flags.DEFINE_string('checkpoint', 'latest', "'latest', 'best', or a step.")
DATA_DIR = flags.DEFINE_string('data_dir', None, "Instead of the run's own config.data_dir.")
flags.mark_flag_as_required('workdir')


def main(argv):
    del argv
    config = checkpoint.read_config(WORKDIR.value)
    if DATA_DIR.value is not None:
        config.data_dir = DATA_DIR.value
    # Other devices than those of the run may not be able to share its batches.
    devices = jax.device_count()
    config.batch_size = max(config.batch_size // devices, 1) * devices
    config.translations.repetitions = 1
    with checkpoint.Checkpoints(WORKDIR.value, read_only=True) as checkpoints:
        step = checkpoints.find(CHECKPOINT.value)
        images, run = train.setup(config)
        snapshot = checkpoints.restore(step, run.shapes)
    train_state = parallel.replicate(snapshot.state)
    metrics = train.evaluate(run, train_state, images, train.evaluated_split(config))
    print(json.dumps({'step': step} | metrics))


if __name__ == '__main__':
    cli.run(main)
