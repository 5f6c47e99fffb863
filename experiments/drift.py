"""How much of what neurons learn while awake is common to their pool, layer by layer.

    python -m experiments.drift --workdir=runs/cifar10 --steps=1,10,100

Trains from a checkpoint without sleep, and compares the kernels after each number of steps with
those of the checkpoint (`measure/drift.py`). The table has the common part of the changes: it is 1
if the neurons of a pool change alike; the last column says what it is if they change independently.
A sleep that averages keeps the common part and loses the rest. The pools are those of the run.
"""

from absl import flags

from experiments.common import cli, trained
from experiments.measure.drift import common_parts, independent
from lcn_jax.errors import UsageError
from lcn_jax.layer.local_parameters import by_path, kernels, name_of

STEPS = flags.DEFINE_list(
    'steps', ['1', '10', '100'], 'The numbers of wake steps after which to compare.'
)


def main(argv):
    del argv
    if not all(steps.isdigit() and int(steps) for steps in STEPS.value):
        raise UsageError(f'--steps={",".join(STEPS.value)} must be a list of numbers above 0.')
    config, experiment, start, state = trained.restore_local()
    counts = sorted(set(map(int, STEPS.value)))
    border = config.pools.border
    parts = common_parts(experiment, state, config.seed, counts)
    print(f'the common part of changes since step {start}\n')
    print(f'{"layer":<24}' + ''.join(f'{steps:>8}' for steps in counts) + f'{"independent":>14}')
    for path, local in by_path(kernels(experiment.network.grids)).items():
        name = name_of(path[:-1])
        ours = ''.join(f'{part[name]:>8.3f}' for part in parts)
        print(f'{name:<24}{ours}{independent(local, border):>14.3f}')


if __name__ == '__main__':
    cli.run(main)
