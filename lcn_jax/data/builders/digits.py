"""The `digits` dataset: scikit-learn's handwritten digits, each somewhere on a 16×16 canvas."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from lcn_jax.data.builders import encoded

CANVAS, TRAIN = 16, 1200


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 real 8×8 digits at random positions of an empty canvas, 1,200 to train, 597 to test.

    Made from what scikit-learn ships, so it needs no network. Where a digit is matters: a locally
    connected network has to learn it everywhere, a convolutional one only once.
    """

    VERSION = tfds.core.Version('1.0.0')

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            'image': tfds.features.Image(shape=(CANVAS, CANVAS, 1)),
            'label': tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=('image', 'label'),
            homepage='https://archive.ics.uci.edu/dataset/80',
        )

    def _split_generators(self, dl_manager):
        digits: Any = load_digits()
        size = digits.images.shape[1]
        offsets = np.random.RandomState(0).randint(0, CANVAS - size + 1, (len(digits.images), 2))
        canvases = np.zeros((len(digits.images), CANVAS, CANVAS), np.uint8)
        for canvas, digit, (top, left) in zip(canvases, digits.images, offsets):
            canvas[top : top + size, left : left + size] = np.round(digit * (255 / 16))
        return {
            'train': self._generate_examples(canvases[:TRAIN], digits.target[:TRAIN]),
            'test': self._generate_examples(canvases[TRAIN:], digits.target[TRAIN:]),
        }

    def _generate_examples(self, images, labels):
        for i, (image, label) in enumerate(zip(images, labels)):
            yield i, {'image': encoded.png(image), 'label': int(label)}
