"""Evaluates a checkpoint of a run: prints its step and metrics as a line of JSON.

    python -m experiments.evaluate --workdir=runs/cifar10 --checkpoint=best

The metrics are those that training logged at that step, if it evaluated there.
"""

import json

from absl import flags

from experiments.common import cli, trained
from lcn_jax.training import checkpoint, inputs, measures, train
from lcn_jax.training.experiment import Experiment

DATA_DIR = flags.DEFINE_string('data_dir', None, "Instead of the run's own config.data_dir.")


def main(argv):
    del argv
    config = checkpoint.read_config(trained.WORKDIR.value)
    if DATA_DIR.value is not None:
        config.data_dir = DATA_DIR.value
    experiment = Experiment.create(config)
    step, snapshot = trained.restore(experiment)
    images = inputs.make(config, train.keys(config.seed)[1])
    metrics = measures.evaluation(experiment, experiment.place(snapshot.state), images)
    print(json.dumps({'step': step, **metrics}))


if __name__ == '__main__':
    cli.run(main)
