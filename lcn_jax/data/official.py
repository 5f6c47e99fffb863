"""The official builders of CIFAR-10, CIFAR-100 and ImageNet, preparing without tensorflow.

They write what tfds' own write, under the same names, from files that are already there.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.datasets.imagenet2012 import imagenet2012_dataset_builder

from lcn_jax.data import archives, encoded
from lcn_jax.errors import UsageError

PIXELS = 3 * 32 * 32


class _FromFolder:
    """A builder's constructor argument `source`: the folder of the unpacked official files."""

    def __init__(self, *, source: Path | None = None, **kwargs):
        super().__init__(**kwargs)
        self._source = source


class _Cifar(_FromFolder):
    """Reads the rows of the binary version: label bytes, then pixels, channel first."""

    @property
    def _cifar_info(self):
        return super()._cifar_info._replace(prefix='')

    def _split_generators(self, dl_manager):
        info = self._cifar_info
        for name in (*info.train_files, *info.test_files, *info.label_files):
            if not (self._source / name).is_file():
                raise UsageError(f'{self._source} is not the binary version: there is no {name}.')
        return super()._split_generators(_Extracted(self._source))

    def _generate_examples(self, split_prefix, filepaths):
        keys = self._cifar_info.label_keys
        index = 0
        for path in filepaths:
            for row in _rows(path, len(keys) + PIXELS):
                labels = {key: int(label) for key, label in zip(keys, row)}
                for key, label in labels.items():
                    if label >= self.info.features[key].num_classes:
                        raise UsageError(f'{path} is corrupt: there is no {key} {label}.')
                image = row[len(keys) :].reshape(3, 32, 32).transpose(1, 2, 0)
                image = encoded.png(np.ascontiguousarray(image))
                yield index, {'id': f'{split_prefix}{index:05d}', 'image': image, **labels}
                index += 1


class _Extracted:
    """Stands in for tfds' download manager: the files are here."""

    def __init__(self, folder: Path):
        self._folder = folder

    def download_and_extract(self, url: str) -> str:
        return os.fspath(self._folder)


def _rows(path: str, length: int) -> np.ndarray:
    """(N, length) uint8."""
    size = os.path.getsize(path)
    if size == 0 or size % length:
        raise UsageError(f'{path} is truncated: its {size} bytes are not rows of {length}.')
    return np.fromfile(path, np.uint8).reshape(-1, length)


class Cifar10(_Cifar, tfds.image_classification.Cifar10, skip_registration=True):
    name = 'cifar10'


class Cifar100(_Cifar, tfds.image_classification.Cifar100, skip_registration=True):
    name = 'cifar100'


class Imagenet2012(_FromFolder, imagenet2012_dataset_builder.Builder, skip_registration=True):
    """From the two official tars. Images that are not RGB are stored as RGB PNGs.

    `val_labels`: a file with the wnid of every validation image, one a line, in the order of the
    file names; None for the official list of 50,000.
    """

    name = 'imagenet2012'
    pkg_dir_path = imagenet2012_dataset_builder.Builder.pkg_dir_path

    def __init__(self, *, val_labels: Path | None = None, **kwargs):
        super().__init__(**kwargs)
        official = Path(imagenet2012_dataset_builder.__file__).with_name('validation_labels.txt')
        self._val_labels = val_labels or official

    def _split_generators(self, dl_manager):
        train, validation = (
            self._source / f'ILSVRC2012_img_{split}.tar' for split in ('train', 'val')
        )
        for path in (train, validation, self._val_labels):
            if not path.is_file():
                raise UsageError(f'there is no file {path}.')
        return {
            'train': self._generate_examples(_train_images(train)),
            'validation': self._generate_examples(_validation_images(validation, self._val_labels)),
        }

    def _generate_examples(self, images):
        """`images`: (file name, content, wnid, where it is from)."""
        wnids = set(self.info.features['label'].names)
        empty = True
        for name, content, wnid, origin in images:
            if wnid not in wnids:
                raise UsageError(f'{origin}: {wnid!r} is not one of the {len(wnids)} classes.')
            image = encoded.rgb(content, f'{origin}: {name}')
            yield name, {'file_name': name, 'image': image, 'label': wnid}
            empty = False
        if empty:
            raise UsageError(f'{self._source}: one of the tars has no images in it.')


def _train_images(path: Path) -> Iterator[tuple[str, bytes, str, str]]:
    """A tar of one tar for each class."""
    with path.open('rb') as file:
        for name, content in archives.tar_members(file, str(path)):
            origin = f'{path}: {name}'
            images = archives.tar_members(io.BytesIO(content), origin)
            for image_name, image in images:
                yield image_name, image, name.removesuffix('.tar'), origin


def _validation_images(path: Path, labels_file: Path) -> Iterator[tuple[str, bytes, str, str]]:
    labels = labels_file.read_text().split()
    with path.open('rb') as file:
        names = sorted(name for name, _ in archives.tar_members(file, str(path)))
    if len(names) != len(labels):
        raise UsageError(
            f'{path} has {len(names)} images and {labels_file} {len(labels)} labels: give the '
            'labels of these images with --val_labels.'
        )
    wnids = dict(zip(names, labels))
    with path.open('rb') as file:
        for name, image in archives.tar_members(file, str(path)):
            yield name, image, wnids[name], str(path)
