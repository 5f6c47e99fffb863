"""When does sharing help? Accuracy against how far objects move, and against training images.

    python -m experiments.positions --out=experiments/results/positions

Small images (digits of 8×8 pixels, and Fashion-MNIST at 14×14) lie on a canvas of 8 pixels more, at
places that vary by 0, 1, 2, 4 or 8 pixels, in training and test alike. Fashion-MNIST is read from
--fashion, where Debian's package dataset-fashion-mnist has it.

Trains what OUT/runs.json lacks, and writes OUT/table.md and OUT/picture.png of all of it, also if
it is stopped. The same command continues.
"""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator

from absl import flags
from ml_collections import ConfigDict

from experiments.common import cli
from experiments.common.runs import Point, reported, train_missing
from experiments.configs import digits as digits_config
from experiments.datasets import placed
from experiments.reports import positions as report
from lcn_jax.data import sources
from lcn_jax.files import local_folder, make_folder

OUT = flags.DEFINE_string('out', 'experiments/results/positions', 'Folder for the results.')
DATA_DIR = flags.DEFINE_string('data_dir', 'runs/positions', 'Folder for the placed images.')
FASHION = flags.DEFINE_string(
    'fashion', '/usr/share/datasets/fashion-mnist', 'Folder of the files of Fashion-MNIST.'
)
TASKS = flags.DEFINE_multi_enum(
    'task', ['digits', 'fashion'], ['digits', 'fashion'], 'Which images; may be repeated.'
)
SEEDS = flags.DEFINE_integer('seeds', 3, 'Networks at each point.', lower_bound=1)
STEPS = flags.DEFINE_integer('steps', None, 'Instead of those of the task.', lower_bound=1)

ROOM = 8  # pixels that a canvas has more than its images
REACHES = (0, 1, 2, 4, 8)


@dataclasses.dataclass(frozen=True)
class Task:
    """Images, how many of them, and how long networks learn.

    size: pixels. images: in training, where the reach varies. numbers: of training images, where
    these vary and the reach is `reach`. steps: of training, about, however many images there are.
    """

    load: Callable[[], dict[str, placed.Labelled]]
    size: int
    images: int
    numbers: tuple[int, ...]
    steps: int
    reach: int = 4


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
    out = make_folder(local_folder('--out', OUT.value))
    runs = [
        run
        for seed in range(SEEDS.value)
        for name in TASKS.value
        for run in runs_of(name, ALL_TASKS[name], seed)
    ]
    for name in TASKS.value:
        prepare(name, ALL_TASKS[name])
    with reported(out / 'runs.json', report.markdown, report.draw) as path:
        train_missing(path, runs)


def runs_of(name: str, task: Task, seed: int) -> Iterator[tuple[Point, ConfigDict]]:
    """The runs of a task with a seed: all reaches, then all numbers of images."""
    settings = [(reach, task.images) for reach in REACHES]
    settings += [(task.reach, number) for number in task.numbers]
    for (reach, images), kind in itertools.product(settings, report.KINDS):
        point = {'task': name, 'reach': reach, 'images': images, 'kind': kind, 'seed': seed}
        yield point, config_of(point, task, DATA_DIR.value, STEPS.value or task.steps)


def config_of(point: Point, task: Task, data_dir: str, steps: int) -> ConfigDict:
    """The digits' config, with its rates, for the images of a task."""
    config = digits_config.get_config(point['kind'])
    config.dataset, config.data_dir = dataset(point['task'], point['reach']), data_dir
    config.image_size = task.size + ROOM
    config.train_images, config.seed = point['images'], point['seed']
    config.epochs = max(1, round(steps / (point['images'] // config.batch_size)))
    config.evaluate_every = config.epochs
    config.log_every, config.checkpoint_every = steps, 0
    return config


def dataset(task: str, reach: int) -> str:
    return f'{task}_within_{reach}'


def prepare(name: str, task: Task) -> None:
    """Writes the datasets of a task under --data_dir, those that are not there."""
    for reach in REACHES:
        if not os.path.isdir(os.path.join(DATA_DIR.value, dataset(name, reach))):
            sources.write(
                placed.Placed(
                    name=dataset(name, reach),
                    splits=task.load(),
                    canvas=task.size + ROOM,
                    reach=reach,
                    data_dir=DATA_DIR.value,
                )
            )


if __name__ == '__main__':
    cli.run(main)
