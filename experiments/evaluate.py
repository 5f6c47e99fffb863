"""Evaluates a checkpoint of a run and prints its step and metrics as one line of JSON.

    python -m experiments.evaluate --workdir=runs/cifar10 --checkpoint=best

The metrics equal those that training recorded at that step, if it evaluated there.
"""

import json

from experiments.common import cli, trained
from lcn_jax.training import inputs, measures, train
from lcn_jax.training.experiment import Experiment


def main(argv):
    del argv
    config = trained.read_config()
    experiment = Experiment.create(config)
    step, snapshot = trained.restore(experiment)
    images = inputs.make(config, train.keys(config.seed)[1])
    metrics = measures.evaluation(experiment, experiment.place(snapshot.state), images)
    print(json.dumps({'step': step, **metrics}))


if __name__ == '__main__':
    cli.run(main)
