"""Builders of a user's own datasets, in a module that the project does not know."""

import numpy as np
import tensorflow_datasets as tfds
import tiny_archives


class Own(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images with a class each. KEYS: the features of images and classes; SPLITS: their numbers."""

    VERSION = tfds.core.Version('1.0.0')
    KEYS = ('image', 'label')
    FEATURES: dict
    SPLITS: dict

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(self.FEATURES),
            supervised_keys=self.KEYS,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(number) for split, number in self.SPLITS.items()}


class Stripes(Own):
    """Grey images of 12×10 pixels, of 3 classes, under names of features that are not the usual."""

    KEYS = ('picture', 'kind')
    FEATURES = {
        'picture': tfds.features.Image(shape=(12, 10, 1)),
        'kind': tfds.features.ClassLabel(names=['flat', 'across', 'down']),
        'note': tfds.features.Text(),
    }
    SPLITS = {'train': 24, 'validation': 9}

    def _generate_examples(self, number):
        for i, image in enumerate(stripes(number)):
            file = tiny_archives.encode(image, mode='L')
            yield i, {'picture': file, 'kind': i % 3, 'note': f'number {i}'}


def stripes(number: int) -> np.ndarray:
    """(number, 12, 10) uint8; the class of image i is i % 3."""
    return tiny_archives.pictures(number, (12, 10), seed=number)[..., 0]


class Postcards(Own, skip_registration=True):
    """Colour images of different sizes, of 2 classes; tfds does not know this builder by name."""

    VERSION = tfds.core.Version('2.1.0')
    FEATURES = {'image': tfds.features.Image(), 'label': tfds.features.ClassLabel(num_classes=2)}
    SPLITS = {'train': 16, 'test': 5}
    SIZES = [(40, 30), (30, 50), (64, 64)]

    def _generate_examples(self, number):
        for i in range(number):
            (image,) = tiny_archives.pictures(1, self.SIZES[i % 3], seed=i)
            yield i, {'image': tiny_archives.encode(image, 'JPEG'), 'label': i % 2}


class Odd(Own, skip_registration=True):
    """Four images of the given features, only for training; `example` changes the third."""

    KEYS = None
    SPLITS = {'train': 4}

    def __init__(self, *, image=None, label=None, example=None, **kwargs):
        self.FEATURES = {
            'image': image or tfds.features.Image(shape=(8, 8, 3)),
            'label': label or tfds.features.ClassLabel(num_classes=2),
        }
        self._example = example or {}
        super().__init__(**kwargs)

    def _generate_examples(self, number):
        file = tiny_archives.encode(tiny_archives.pictures(1, (8, 8))[0])
        for i in range(number):
            yield i, {'image': file, 'label': 1, **(self._example if i == 2 else {})}


def prepare(builder: type, data_dir: str, **options) -> str:
    """Prepares a dataset as tfds documents it; returns the folder that holds it."""
    made = builder(data_dir=data_dir, file_format='array_record', **options)
    made.download_and_prepare()
    return str(made.data_path)
