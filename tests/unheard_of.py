"""Datasets of a user's own, as builders in a module that the project does not know."""

import numpy as np
import tensorflow_datasets as tfds
import tiny_archives


class Stripes(tfds.core.GeneratorBasedBuilder):
    """Grey images of 12×10 pixels, of 3 classes, under names of features that are not the usual."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    'picture': tfds.features.Image(shape=(12, 10, 1)),
                    'kind': tfds.features.ClassLabel(names=['flat', 'across', 'down']),
                    'note': tfds.features.Text(),
                }
            ),
            supervised_keys=('picture', 'kind'),
        )

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples(24), 'validation': self._generate_examples(9)}

    def _generate_examples(self, number):
        for i, image in enumerate(stripes(number)):
            file = tiny_archives.encode(image, mode='L')
            yield i, {'picture': file, 'kind': i % 3, 'note': f'number {i}'}


def stripes(number: int) -> np.ndarray:
    """(number, 12, 10) uint8; the class of image i is i % 3."""
    return tiny_archives.pictures(number, (12, 10), seed=number)[..., 0]


class Postcards(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Colour images of different sizes, of 2 classes; tfds does not know this builder by name."""

    VERSION = tfds.core.Version('2.1.0')
    SIZES = [(40, 30), (30, 50), (64, 64)]

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    'image': tfds.features.Image(),
                    'label': tfds.features.ClassLabel(num_classes=2),
                }
            ),
            supervised_keys=('image', 'label'),
        )

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples(16), 'test': self._generate_examples(5)}

    def _generate_examples(self, number):
        for i in range(number):
            (image,) = tiny_archives.pictures(1, self.SIZES[i % 3], seed=i)
            yield i, {'image': tiny_archives.encode(image, 'JPEG'), 'label': i % 2}


class Odd(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One image and label, of the given features; only for training."""

    VERSION = tfds.core.Version('1.0.0')

    def __init__(self, *, image=None, label=None, example=None, **kwargs):
        self._image = image or tfds.features.Image(shape=(8, 8, 3))
        self._label = label or tfds.features.ClassLabel(num_classes=2)
        self._example = example or {}
        super().__init__(**kwargs)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({'image': self._image, 'label': self._label}),
        )

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples()}

    def _generate_examples(self):
        file = tiny_archives.encode(tiny_archives.pictures(1, (8, 8))[0])
        for i in range(4):
            yield i, {'image': file, 'label': 1, **(self._example if i == 2 else {})}


def prepare(builder: type, data_dir: str, **options) -> str:
    """Prepares a dataset as tfds documents it; returns the folder that holds it."""
    made = builder(data_dir=data_dir, file_format='array_record', **options)
    made.download_and_prepare()
    return str(made.data_path)
