"""How much of what neurons learn while awake is common to their pool, layer by layer.

    python -m experiments.drift --workdir=runs/cifar10 --steps=1,10,100

Takes a checkpoint, lets it learn without sleep, and compares its kernels after each number of
steps with those at the start (`measure/drift.py`). The table has the common part of the changes: 1
if the neurons of a pool change alike, and in the last column, what it is if they change
independently. A sleep that averages keeps the common part and loses the rest. The pools are those
of the run.
"""

from absl import flags

from experiments.common import cli, trained
from experiments.measure.drift import common_parts, independent
from lcn_jax.errors import UsageError
from lcn_jax.layer.local_parameters import by_path, kernels, name_of
from lcn_jax.training import checkpoint
from lcn_jax.training.experiment import Experiment

STEPS = flags.DEFINE_list('steps', ['1', '10', '100'], 'After how many wake steps to compare.')
DATA_DIR = flags.DEFINE_string('data_dir', None, "Instead of the run's own config.data_dir.")


def main(argv):
    del argv
    config = checkpoint.read_config(trained.WORKDIR.value)
    if config.connectivity != 'lc':
        raise UsageError(
            f'{trained.WORKDIR.value} holds a convolutional network, or another without pools.'
        )
    if not all(steps.isdigit() and int(steps) for steps in STEPS.value):
        raise UsageError(f'--steps={",".join(STEPS.value)} must be a list of numbers above 0.')
    if DATA_DIR.value is not None:
        config.data_dir = DATA_DIR.value
    config.shard_kernels = False  # whole kernels are compared
    experiment = Experiment.create(config)
    start, snapshot = trained.restore(experiment)
    counts = sorted(set(map(int, STEPS.value)))
    border = config.sleep.border
    parts = common_parts(experiment, snapshot.state, config.seed, counts)
    print(f'the common part of changes, from step {start} on\n')
    print(f'{"layer":<24}' + ''.join(f'{steps:>8}' for steps in counts) + f'{"independent":>14}')
    for path, local in by_path(kernels(experiment.network.grids)).items():
        name = name_of(path[:-1])
        ours = ''.join(f'{part[name]:>8.3f}' for part in parts)
        print(f'{name:<24}{ours}{independent(local, border):>14.3f}')


if __name__ == '__main__':
    cli.run(main)
