"""The official builders of CIFAR-10 and CIFAR-100, preparing without tensorflow.

They write what tfds' own write, under the same names. The files are published in two forms, and
both work: the binary version, and the Python version, whose pickles cannot run anything here.
"""

import dataclasses
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from lcn_jax.data.builders import archives, encoded
from lcn_jax.errors import UsageError

PIXELS = 3 * 32 * 32
# What corrupt pickles raise.
CORRUPT = (pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError)
CORRUPT += (LookupError, MemoryError, TypeError, ValueError)


@dataclasses.dataclass(frozen=True)
class Label:
    """names_file: text file of the binary version. prefix: of the keys of the pickles."""

    classes: int
    names_file: str
    prefix: str = ''


class _Cifar:
    """Base class of the builders.

    split_files: without '.bin'; labels: in the order of a row's first bytes; meta: a pickle.
    """

    split_files: dict[str, list[str]]
    labels: dict[str, Label]
    meta: str
    info: Any  # of the tfds builder that it is mixed into

    def __init__(self, *, source: Path, **kwargs):
        super().__init__(**kwargs)
        self._source = source

    def _split_generators(self, dl_manager):
        with archives.files(self._source) as files:
            names, splits = _read(files, self._source, self)
        for key, names_of_classes in names.items():
            self.info.features[key].names = names_of_classes
        return {split: self._generate_examples(split, rows) for split, rows in splits.items()}

    def _generate_examples(self, split, rows):
        """rows: (N, labels + pixels, channel first) uint8."""
        for index, row in enumerate(rows):
            labels = {key: int(label) for key, label in zip(self.labels, row)}
            image = row[len(labels) :].reshape(3, 32, 32).transpose(1, 2, 0)
            image = encoded.png(np.ascontiguousarray(image))
            yield index, {'id': f'{split}_{index:05d}', 'image': image, **labels}


class Cifar10(_Cifar, tfds.image_classification.Cifar10, skip_registration=True):
    name = 'cifar10'
    split_files = {'train': [f'data_batch_{i}' for i in range(1, 6)], 'test': ['test_batch']}
    labels = {'label': Label(10, 'batches.meta.txt')}
    meta = 'batches.meta'


class Cifar100(_Cifar, tfds.image_classification.Cifar100, skip_registration=True):
    name = 'cifar100'
    split_files = {'train': ['train'], 'test': ['test']}
    labels = {
        'coarse_label': Label(20, 'coarse_label_names.txt', 'coarse_'),
        'label': Label(100, 'fine_label_names.txt', 'fine_'),
    }
    meta = 'meta'


def _read(files: archives.Files, source: Path, layout: _Cifar):
    """Label -> names of the classes, and split -> (N, labels + pixels, channel first) uint8."""
    labels = layout.labels
    names_files = [label.names_file for label in labels.values()]
    binary = archives.folders_with(names_files[0], files)
    python = archives.folders_with(layout.meta, files)
    if len(binary) == 1:
        root, suffix, to_rows = binary[0], '.bin', _binary_rows
    elif len(python) == 1:
        root, suffix, to_rows = python[0], '', _pickled_rows
    else:
        raise UsageError(
            f'{source} is neither the binary nor the Python version: there must be one '
            f'{names_files[0]} or one {layout.meta} in it.'
        )

    def read(file):
        if root + file not in files:
            raise UsageError(f'{source}: there is no {root}{file}.')
        return files[root + file](), f'{source}: {root}{file}'

    def rows(file):
        content, name = read(file + suffix)
        found = to_rows(content, name, labels)
        for (key, label), highest in zip(labels.items(), found.max(0)):
            if highest >= label.classes:
                raise UsageError(f'{name} is corrupt: there is no {key} {highest}.')
        return found

    if to_rows is _binary_rows:
        names = [archives.lines(*read(file)) for file in names_files]
    else:
        names = _pickled_names(*read(layout.meta), labels)
    for names_of_classes, label in zip(names, labels.values()):
        count = len(set(names_of_classes))
        if not count == len(names_of_classes) == label.classes:
            raise UsageError(f'{source} has {count} names for {label.classes} classes.')
    return dict(zip(labels, names)), {
        split: np.concatenate([rows(file) for file in split_files])
        for split, split_files in layout.split_files.items()
    }


def _binary_rows(content: bytes, name: str, labels: dict[str, Label]) -> np.ndarray:
    length = len(labels) + PIXELS
    if not content or len(content) % length:
        raise UsageError(f'{name} is truncated: its {len(content)} bytes are not rows of {length}.')
    return np.frombuffer(content, np.uint8).reshape(-1, length)


def _pickled_rows(content: bytes, name: str, labels: dict[str, Label]) -> np.ndarray:
    batch = _unpickled(content, name)
    columns = [batch.get(f'{label.prefix}labels'.encode()) for label in labels.values()]
    match batch.get(b'data'):
        case _Numpy(state=(_, (examples, width), _, False, bytes(pixels))) if (
            width == PIXELS
            and len(pixels) == examples * PIXELS > 0
            and all(_are_bytes(column, examples) for column in columns)
        ):
            pixels = np.frombuffer(pixels, np.uint8).reshape(examples, PIXELS)
            return np.column_stack([*np.array(columns, np.uint8), pixels])
    raise UsageError(f'{name} is not a batch of images as the Python version of CIFAR has them.')


def _are_bytes(values, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, int) and 0 <= value < 256 for value in values)
    )


def _pickled_names(content: bytes, name: str, labels: dict[str, Label]) -> list[list[str]]:
    meta = _unpickled(content, name)
    names = []
    for label in labels.values():
        key = f'{label.prefix}label_names'
        found = meta.get(key.encode())
        if not (isinstance(found, list) and all(isinstance(value, bytes) for value in found)):
            raise UsageError(f'{name} has no list of {key}.')
        names.append([value.decode('latin1') for value in found])
    return names


class _Numpy:
    """An array or dtype in a pickle: keeps its state and does nothing with it."""

    state = None

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Imports nothing: `_Numpy` stands in for numpy's arrays, and other imports are errors."""

    def find_class(self, module, name):
        if module.startswith('numpy') and name in ('dtype', 'ndarray', '_reconstruct'):
            return _Numpy
        raise pickle.UnpicklingError(f'it refers to {module}.{name}')


def _unpickled(content: bytes, name: str) -> dict:
    try:
        found = _Unpickler(io.BytesIO(content), encoding='bytes').load()
    except CORRUPT as error:
        raise UsageError(f'{name} cannot be read, it may be corrupt: {error}.') from error
    if not isinstance(found, dict):
        raise UsageError(f'{name} is not the pickle of a dictionary.')
    return found
