"""The runs of `experiments.positions`: images whose places vary, and a config for each network."""

import dataclasses
from collections.abc import Callable

from ml_collections import ConfigDict

from experiments.common.kept import Point
from experiments.configs import digits
from experiments.datasets import placed

ROOM = 8  # pixels that a canvas has more than its images


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


def config_of(point: Point, task: Task, data_dir: str, steps: int) -> ConfigDict:
    """The digits' config, with its rates, for the images of a task."""
    config = digits.get_config(point['kind'])
    config.dataset, config.data_dir = dataset(point['task'], point['reach']), data_dir
    config.image_size = task.size + ROOM
    config.train_images, config.seed = point['images'], point['seed']
    config.epochs = max(1, round(steps / (point['images'] // config.batch_size)))
    config.evaluate_every = config.epochs
    config.log_every, config.checkpoint_every = steps, 0
    return config


def dataset(task: str, reach: int) -> str:
    return f'{task}_within_{reach}'
