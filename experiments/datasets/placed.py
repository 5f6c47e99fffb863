"""Small images, each at a place of its own on an empty canvas: how far places vary is a choice.

The place of an image follows from its number, so a range that is twice as wide moves every image
twice as far, and all networks see the same images.
"""

import gzip
import pathlib

import numpy as np

from lcn_jax.data.builders.digits import TRAIN, OnCanvas, images_and_labels
from lcn_jax.errors import UsageError
from lcn_jax.files import reading

Labelled = tuple[np.ndarray, np.ndarray]  # images (N, H, W) uint8, labels (N,)
SEEDS = {'train': 0, 'test': 1}  # of the places


class Placed(OnCanvas, skip_registration=True):
    """Images on a canvas, at places that `place` gives them."""

    def __init__(
        self, *, name: str, splits: dict[str, Labelled], canvas: int, reach: int, **kwargs
    ):
        self.name, self.canvas = name, canvas
        self._placed = {
            split: (place(images, canvas, reach, SEEDS[split]), labels)
            for split, (images, labels) in splits.items()
        }
        super().__init__(**kwargs)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(*data) for split, data in self._placed.items()}


def place(images: np.ndarray, canvas: int, reach: int, seed: int) -> np.ndarray:
    """(N, canvas, canvas) uint8: each image (H, H) at one of (reach + 1)² places around the centre.

    With a reach of 0 all are at the same place, with canvas - H they are anywhere on the canvas.
    """
    size = images.shape[1]
    at = np.random.default_rng(seed).random((len(images), 2))
    corners = (canvas - size - reach) // 2 + (at * (reach + 1)).astype(int)
    placed = np.zeros((len(images), canvas, canvas), np.uint8)
    for on_canvas, image, (top, left) in zip(placed, images, corners):
        on_canvas[top : top + size, left : left + size] = image
    return placed


def digits() -> dict[str, Labelled]:
    """scikit-learn's 8×8 digits, 1,200 to train and 597 to test, as in the dataset `digits`."""
    images, labels = images_and_labels()
    return {'train': (images[:TRAIN], labels[:TRAIN]), 'test': (images[TRAIN:], labels[TRAIN:])}


def fashion(folder: pathlib.Path, train: int, test: int) -> dict[str, Labelled]:
    """The first images of Fashion-MNIST at half of their resolution, 14×14.

    folder: with the four official files, as Debian's package dataset-fashion-mnist installs them.

    Raises:
      UsageError: it does not have them.
    """
    names = {'train': ('train', train), 'test': ('t10k', test)}
    return {split: _fashion(folder, *name) for split, name in names.items()}


def _fashion(folder: pathlib.Path, name: str, count: int) -> Labelled:
    pixels = _read(folder / f'{name}-images-idx3-ubyte.gz', header=16).reshape(-1, 14, 2, 14, 2)
    labels = _read(folder / f'{name}-labels-idx1-ubyte.gz', header=8)
    return np.round(pixels[:count].mean((2, 4))).astype(np.uint8), labels[:count]


def _read(path: pathlib.Path, header: int) -> np.ndarray:
    """The data of an IDX file, without its header."""
    if not path.exists():
        raise UsageError(
            f'there is no {path}: install dataset-fashion-mnist (Debian, Ubuntu), or name the '
            'folder of the official files with --fashion.'
        )
    with reading(path):
        return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)
