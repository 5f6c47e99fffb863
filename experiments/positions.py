"""When does sharing help? Accuracy against how far objects move, and against training images.

    python -m experiments.positions --out=experiments/results/positions

Small images (digits of 8×8 pixels, and Fashion-MNIST at 14×14) lie on a canvas of 8 pixels more, at
places that vary by 0, 1, 2, 4 or 8 pixels, in training and test alike. Fashion-MNIST is read from
--fashion, where Debian's package dataset-fashion-mnist has it.

Trains what OUT/runs.json lacks, adds it, and writes OUT/table.md and OUT/picture.png. If it is
stopped, the same command continues, and begins with adding the runs that were finished.
"""

import itertools
import pathlib
from collections.abc import Iterator

from absl import flags
from ml_collections import ConfigDict

from experiments.common import cli, kept
from experiments.common.kept import Point
from experiments.datasets import placed
from experiments.measure.positions import ROOM, Task, config_of, dataset
from experiments.reports import positions as report
from lcn_jax.data import sources
from lcn_jax.files import local_folder

OUT = flags.DEFINE_string('out', 'experiments/results/positions', 'Folder for the results.')
RUNS = flags.DEFINE_string(
    'runs', 'runs/positions', 'Folder for the workdirs, and in data/ for the placed images.'
)
FASHION = flags.DEFINE_string(
    'fashion', '/usr/share/datasets/fashion-mnist', 'Folder of the files of Fashion-MNIST.'
)
TASKS = flags.DEFINE_multi_enum(
    'task', ['digits', 'fashion'], ['digits', 'fashion'], 'Which images; may be repeated.'
)
SEEDS = flags.DEFINE_integer('seeds', 3, 'Networks at each point.', lower_bound=1)
STEPS = flags.DEFINE_integer('steps', None, 'Instead of those of the task.', lower_bound=1)

REACHES = (0, 1, 2, 4, 8)


ALL_TASKS = {
    'digits': Task(placed.digits, size=8, images=1200, numbers=(150, 300, 600), steps=480),
    'fashion': Task(
        lambda: placed.fashion(pathlib.Path(FASHION.value), train=8000, test=4000),
        size=14,
        images=2000,
        numbers=(250, 500, 1000, 4000, 8000),
        steps=800,
    ),
}


def main(argv):
    del argv
    local_folder('--out', OUT.value)
    data_dir = local_folder('--runs', RUNS.value) / 'data'
    runs = [
        run
        for seed in range(SEEDS.value)
        for name in TASKS.value
        for run in runs_of(name, ALL_TASKS[name], seed, data_dir)
    ]
    for name in TASKS.value:
        prepare(name, ALL_TASKS[name], data_dir)
    kept.complete(OUT.value, RUNS.value, runs, report.markdown, report.draw)


def runs_of(
    name: str, task: Task, seed: int, data_dir: pathlib.Path
) -> Iterator[tuple[Point, ConfigDict]]:
    """The runs of a task with a seed: all reaches, then all numbers of images."""
    settings = [(reach, task.images) for reach in REACHES]
    settings += [(task.reach, number) for number in task.numbers]
    for (reach, images), kind in itertools.product(settings, report.KINDS):
        point = {'task': name, 'reach': reach, 'images': images, 'kind': kind, 'seed': seed}
        yield point, config_of(point, task, str(data_dir), STEPS.value or task.steps)


def prepare(name: str, task: Task, data_dir: pathlib.Path) -> None:
    """Writes the datasets of a task into a folder, those that are not there."""
    for reach in REACHES:
        if not (data_dir / dataset(name, reach)).is_dir():
            sources.write(
                placed.Placed(
                    name=dataset(name, reach),
                    splits=task.load(),
                    canvas=task.size + ROOM,
                    reach=reach,
                    data_dir=data_dir,
                )
            )


if __name__ == '__main__':
    cli.run(main)
