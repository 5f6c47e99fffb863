"""The `digits` dataset: scikit-learn's handwritten digits, each somewhere on a 16×16 canvas."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from lcn_jax.data.builders import encoded

CANVAS, TRAIN = 16, 1200


class OnCanvas(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder of grey images in ten classes, all as large as a square canvas."""

    VERSION = tfds.core.Version('1.0.0')
    homepage: str | None = None
    canvas: int  # pixels

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            'image': tfds.features.Image(shape=(self.canvas, self.canvas, 1)),
            'label': tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=('image', 'label'),
            homepage=self.homepage,
        )

    def _generate_examples(self, images, labels):
        for i, (image, label) in enumerate(zip(images, labels)):
            yield i, {'image': encoded.png(image), 'label': int(label)}


class Digits(OnCanvas):
    """1,797 real 8×8 digits at random positions of an empty canvas, 1,200 to train, 597 to test.

    Made from what scikit-learn ships, so it needs no network. Where a digit is matters: a locally
    connected network has to learn it everywhere, a convolutional one only once.
    """

    canvas, homepage = CANVAS, 'https://archive.ics.uci.edu/dataset/80'

    def _split_generators(self, dl_manager):
        digits, labels = images_and_labels()
        size = digits.shape[1]
        offsets = np.random.RandomState(0).randint(0, CANVAS - size + 1, (len(digits), 2))
        canvases = np.zeros((len(digits), CANVAS, CANVAS), np.uint8)
        for canvas, digit, (top, left) in zip(canvases, digits, offsets):
            canvas[top : top + size, left : left + size] = digit
        return {
            'train': self._generate_examples(canvases[:TRAIN], labels[:TRAIN]),
            'test': self._generate_examples(canvases[TRAIN:], labels[TRAIN:]),
        }


def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits: (1797, 8, 8) uint8, and (1797,)."""
    loaded: Any = load_digits()
    return np.round(loaded.images * (255 / 16)).astype(np.uint8), loaded.target
