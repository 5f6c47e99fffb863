"""Trains one network.

    python -m experiments.train --config=experiments/configs/cifar10.py:lc_hebbian \\
        --config.data_dir=DIR --workdir=runs/cifar10

The part after the colon is the kind of network. Every value of the config can be set on the command
line, as `--config.data_dir` is here. Prints what will run, shows progress, and writes
WORKDIR/config.json, WORKDIR/metrics.jsonl and WORKDIR/checkpoints. Ctrl-C and SIGTERM save a
checkpoint, and the same command continues from there.

On several hosts that share WORKDIR, run the same command on each of them: with `--multi_process` on
a TPU pod or under SLURM, otherwise with `--coordinator_address=HOST:PORT --num_processes=N
--process_id=I`.
"""

import os

import jax
from absl import flags

from experiments.common import cli, overview
from lcn_jax.training import parallel
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.measures import evaluated_split
from lcn_jax.training.progress import Progress, duration
from lcn_jax.training.train import train_and_evaluate

CONFIG = cli.define_config(
    'A config of the project (digits, cifar10, ...) or a file with get_config(kind); a colon; the '
    'kind.'
)
WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder, or URL, that the run writes to.', required=True
)
MULTI_PROCESS = flags.DEFINE_bool(
    'multi_process', False, 'Join the processes that a TPU pod or SLURM has started.'
)
COORDINATOR_ADDRESS = flags.DEFINE_string(
    'coordinator_address', None, 'HOST:PORT of process 0, to join processes started by hand.'
)
NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes', None, 'The number of processes.', lower_bound=1
)
PROCESS_ID = flags.DEFINE_integer(
    'process_id', None, 'The number of this process, from 0.', lower_bound=0
)


def main(argv):
    del argv
    place = COORDINATOR_ADDRESS.value, NUM_PROCESSES.value, PROCESS_ID.value
    if MULTI_PROCESS.value or place != (None, None, None):
        parallel.join_processes(*place)
    config, workdir = CONFIG.value, WORKDIR.value
    experiment = Experiment.create(config)
    if jax.process_index() == 0:
        print(overview.summary(experiment, workdir), flush=True)
    progress = Progress(f'{config.dataset} {overview.short_kind(config)}')
    result = train_and_evaluate(config, workdir, progress, experiment)
    split = evaluated_split(config)
    print(
        f'{split} accuracy {result[f"{split}_top1"]:.2%} after {result["step"]} steps in '
        f'{duration(result["seconds"])}\n'
        f'{os.path.join(workdir, "metrics.jsonl")} has the records, '
        f'{os.path.join(workdir, "checkpoints")} the weights'
    )


if __name__ == '__main__':
    cli.run(main)
