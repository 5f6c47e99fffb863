"""The official builders of CIFAR-10 and CIFAR-100, preparing without tensorflow.

They write what tfds' own write, under the same names, from either of the two forms in which the
files are published: the binary version, or the Python version, whose pickles cannot run anything
here.
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


@dataclasses.dataclass(frozen=True)
class Label:
    """names_file: text file of the binary version; the keys are those of the pickles."""

    classes: int
    names_file: str
    names_key: bytes
    batch_key: bytes


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names of the files. splits: without '.bin'; labels: in the order of a row's first bytes."""

    splits: dict[str, list[str]]
    labels: dict[str, Label]
    meta: str


class _Cifar:
    """Base class of the CIFAR builders. `source` is a folder or an archive."""

    layout: Layout
    info: Any  # of the tfds builder that it is mixed into

    def __init__(self, *, source: Path, **kwargs):
        super().__init__(**kwargs)
        self._source = source

    def _split_generators(self, dl_manager):
        with archives.files(self._source) as files:
            names, splits = _read(files, self._source, self.layout)
        for key, names_of_key in names.items():
            self.info.features[key].names = names_of_key
        return {split: self._generate_examples(split, rows) for split, rows in splits.items()}

    def _generate_examples(self, split, rows):
        """rows: (N, labels + pixels, channel first) uint8."""
        for index, row in enumerate(rows):
            labels = {key: int(label) for key, label in zip(self.layout.labels, row)}
            image = row[len(labels) :].reshape(3, 32, 32).transpose(1, 2, 0)
            image = encoded.png(np.ascontiguousarray(image))
            yield index, {'id': f'{split}_{index:05d}', 'image': image, **labels}


class Cifar10(_Cifar, tfds.image_classification.Cifar10, skip_registration=True):
    name = 'cifar10'
    layout = Layout(
        splits={'train': [f'data_batch_{i}' for i in range(1, 6)], 'test': ['test_batch']},
        labels={'label': Label(10, 'batches.meta.txt', b'label_names', b'labels')},
        meta='batches.meta',
    )


class Cifar100(_Cifar, tfds.image_classification.Cifar100, skip_registration=True):
    name = 'cifar100'
    layout = Layout(
        splits={'train': ['train'], 'test': ['test']},
        labels={
            'coarse_label': Label(
                20, 'coarse_label_names.txt', b'coarse_label_names', b'coarse_labels'
            ),
            'label': Label(100, 'fine_label_names.txt', b'fine_label_names', b'fine_labels'),
        },
        meta='meta',
    )


def _read(files: archives.Files, source: Path, layout: Layout):
    """Names of the classes by label, and by split (N, labels + pixels, channel first) uint8."""
    names_files = [label.names_file for label in layout.labels.values()]
    binary = archives.folders_with(names_files[0], files)
    python = archives.folders_with(layout.meta, files)
    if len(binary) != 1 and len(python) != 1:
        raise UsageError(
            f'{source} is neither the binary nor the Python version: there must be one '
            f'{names_files[0]} or one {layout.meta} in it.'
        )
    root = binary[0] if len(binary) == 1 else python[0]

    def read(file):
        if root + file not in files:
            raise UsageError(f'{source}: there is no {root}{file}.')
        return files[root + file](), f'{source}: {root}{file}'

    if len(binary) == 1:
        names = [archives.lines(*read(file)) for file in names_files]
        to_rows, ending = _binary_rows, '.bin'
    else:
        names = _pickled_names(*read(layout.meta), layout)
        to_rows, ending = _pickled_rows, ''
    for names_of_label, label in zip(names, layout.labels.values()):
        count = len(set(names_of_label))
        if not count == len(names_of_label) == label.classes:
            raise UsageError(f'{source} has {count} names for {label.classes} classes.')

    def rows(file):
        content, name = read(file + ending)
        found = to_rows(content, name, layout)
        for i, (key, label) in enumerate(layout.labels.items()):
            highest = found[:, i].max()
            if highest >= label.classes:
                raise UsageError(f'{name} is corrupt: there is no {key} {highest}.')
        return found

    splits = {
        split: np.concatenate([rows(file) for file in of_split])
        for split, of_split in layout.splits.items()
    }
    return dict(zip(layout.labels, names)), splits


def _binary_rows(content: bytes, name: str, layout: Layout) -> np.ndarray:
    length = len(layout.labels) + PIXELS
    if not content or len(content) % length:
        raise UsageError(f'{name} is truncated: its {len(content)} bytes are not rows of {length}.')
    return np.frombuffer(content, np.uint8).reshape(-1, length)


def _pickled_rows(content: bytes, name: str, layout: Layout) -> np.ndarray:
    batch = _unpickled(content, name)
    labels = [batch.get(label.batch_key) for label in layout.labels.values()]
    match batch.get(b'data'):
        case _Numpy(state=(_, (examples, width), _, False, bytes(pixels))) if (
            width == PIXELS
            and len(pixels) == examples * PIXELS > 0
            and all(_are_bytes(of_key, examples) for of_key in labels)
        ):
            pixels = np.frombuffer(pixels, np.uint8).reshape(examples, PIXELS)
            return np.column_stack([*np.array(labels, np.uint8), pixels])
    raise UsageError(f'{name} is not a batch of images as the Python version of CIFAR has them.')


def _are_bytes(values, length: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == length
        and all(isinstance(value, int) and 0 <= value < 256 for value in values)
    )


def _pickled_names(content: bytes, name: str, layout: Layout) -> list[list[str]]:
    meta = _unpickled(content, name)
    names = []
    for label in layout.labels.values():
        match meta.get(label.names_key):
            case [*of_label] if all(isinstance(of_class, bytes) for of_class in of_label):
                names.append([of_class.decode('latin1') for of_class in of_label])
            case _:
                raise UsageError(f'{name} has no list of {label.names_key.decode()}.')
    return names


class _Numpy:
    """Stands in for numpy's arrays and dtypes in a pickle: keeps their state and does nothing."""

    state = None

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Knows what a pickle is made of without imports, and _Numpy."""

    def find_class(self, module, name):
        if (module, name) in {
            ('numpy', 'dtype'),
            ('numpy', 'ndarray'),
            ('numpy.core.multiarray', '_reconstruct'),
            ('numpy._core.multiarray', '_reconstruct'),
        }:
            return _Numpy
        raise pickle.UnpicklingError(f'it refers to {module}.{name}')


def _unpickled(content: bytes, name: str) -> dict:
    try:
        found = _Unpickler(io.BytesIO(content), encoding='bytes').load()
    except (  # what corrupt pickles raise
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        TypeError,
        ValueError,
    ) as error:
        raise UsageError(f'{name} cannot be read, it may be corrupt: {error}.') from error
    if not isinstance(found, dict):
        raise UsageError(f'{name} is not the pickle of a dictionary.')
    return found
