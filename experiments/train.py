"""Trains one network.

    python -m experiments.train --config=experiments/configs/cifar10.py:lc_hebbian \\
        --config.data_dir=DIR --workdir=runs/cifar10

The part after the colon is the kind of network. Every value of the config can be set on the command
line, as `--config.data_dir` is here. Writes WORKDIR/config.json and WORKDIR/metrics.jsonl.
"""

import os

from absl import flags
from ml_collections import config_flags

from experiments import cli
from lcn_jax.progress import Progress
from lcn_jax.train import train_and_evaluate

CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'File with get_config(kind), a colon, and the kind.', lock_config=True
)
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder for what the run writes.')
flags.mark_flags_as_required(['config', 'workdir'])


def main(argv):
    del argv
    config = CONFIG.value
    os.makedirs(WORKDIR.value, exist_ok=True)
    with open(os.path.join(WORKDIR.value, 'config.json'), 'w') as file:
        file.write(config.to_json_best_effort(indent=1) + '\n')
    label = f'{config.dataset} {config.connectivity}'
    result = train_and_evaluate(config, WORKDIR.value, Progress(label))
    print(
        f'test accuracy {result["test_top1"]:.2%} after {result["step"]} steps; '
        f'metrics are in {WORKDIR.value}'
    )


if __name__ == '__main__':
    cli.run(main)
