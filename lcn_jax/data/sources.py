"""Datasets prepared by tensorflow-datasets, read without tensorflow."""

import contextlib
import dataclasses
import io
import json
import os

import numpy as np

from lcn_jax.errors import UsageError

MISSING = -1  # the label of what only fills a batch
READ_BLOCK = 1000  # tfds decodes a block twice as fast as examples one by one


@dataclasses.dataclass(frozen=True)
class Spec:
    """What the configs and the model need to know of a dataset before it is read.

    image_shape: (H, W, C); H and W are None if images differ in size. evaluation: the split that is
    kept for the end. source: what the dataset is prepared from.
    """

    num_classes: int
    image_shape: tuple[int | None, int | None, int]
    evaluation: str
    source: str | None

    @property
    def fits(self) -> bool:
        """Whether the dataset lives on the device as a whole; others are streamed."""
        return None not in self.image_shape


CIFAR = 'cifar-{}-binary.tar.gz or the folder it unpacks to; downloaded if tensorflow is installed'

SPECS = {
    'digits': Spec(10, (16, 16, 1), 'test', None),
    'cifar10': Spec(10, (32, 32, 3), 'test', CIFAR.format(10)),
    'cifar100': Spec(100, (32, 32, 3), 'test', CIFAR.format(100)),
    'tiny_imagenet': Spec(
        200, (64, 64, 3), 'validation', 'tiny-imagenet-200.zip or the folder it unpacks to'
    ),
    'imagenet2012': Spec(
        1000,
        (None, None, 3),
        'validation',
        'the folder of ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar',
    ),
}


@dataclasses.dataclass(frozen=True)
class Split:
    """Images (N, H, W, C) uint8 and labels (N,) int32, in the order of the files."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, examples: np.ndarray) -> 'Split':
        return Split(self.images[examples], self.labels[examples])

    def pixel_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (C,) of the pixels scaled to [0, 1], exact up to rounding."""
        values = np.arange(256) / 255
        moments = []
        for channel in np.moveaxis(self.images, -1, 0):
            frequency = np.bincount(channel.ravel(), minlength=256) / channel.size
            mean = frequency @ values
            moments.append((mean, np.sqrt(frequency @ (values - mean) ** 2)))
        mean, std = np.array(moments, np.float32).T
        return mean, std


def spec(name: str) -> Spec:
    """What is known of a dataset; UsageError lists the known ones."""
    if name not in SPECS:
        raise UsageError(f'unknown dataset {name!r}; known: {", ".join(sorted(SPECS))}.')
    return SPECS[name]


def builder(name: str, data_dir: str):
    """The tfds builder of a dataset prepared under `data_dir`; digits are prepared on first use.

    Raises:
      UsageError: the folder is not there, or the dataset has not been prepared in it.
    """
    source = spec(name).source
    import tensorflow_datasets as tfds

    data_dir = os.path.expanduser(data_dir)
    place = {'data_dir': data_dir, 'file_format': 'array_record'}
    if name == 'digits':
        from lcn_jax.data.digits import Digits

        os.makedirs(data_dir, exist_ok=True)
        tfds.disable_progress_bar()  # it takes a second
        digits = Digits(**place)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                digits.download_and_prepare()
        except OSError:
            digits = Digits(**place)
            if not digits.is_prepared():  # else another run was faster
                raise
        return digits
    if not os.path.isdir(data_dir):
        raise UsageError(
            f'there is no folder {data_dir}: set --config.data_dir to where {name} has been '
            'prepared.'
        )
    if name == 'tiny_imagenet':
        from lcn_jax.data.tiny_imagenet import TinyImagenet

        prepared = TinyImagenet(**place)
    else:
        prepared = tfds.builder(name, **place)
    if not prepared.is_prepared():
        raise UsageError(
            f'{name} has not been prepared in {data_dir}; run: python -m experiments.prepare '
            f'--dataset={name} --data_dir={data_dir} --source=PATH, where PATH is {source}.'
        )
    return prepared


def load(name: str, data_dir: str) -> dict[str, Split]:
    """Reads the splits 'train' and 'test' of a prepared dataset that fits into memory.

    'test' is what the paper tests on: of TinyImageNet, the official validation images.

    Raises:
      UsageError: as `builder`, or a split is empty.
    """
    splits = {'train': 'train', 'test': spec(name).evaluation}
    prepared = builder(name, data_dir)
    return {key: _read(prepared, split) for key, split in splits.items()}


def examples_in(prepared, split: str) -> int:
    """The size of a split; UsageError if it is empty or was not prepared."""
    splits = prepared.info.splits
    if split not in splits or not splits[split].num_examples:
        raise UsageError(
            f'there are no {split} images in {prepared.data_path}: delete it and prepare it again.'
        )
    return splits[split].num_examples


def divide(examples: int, validation: int, train_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the examples to train on, and of `validation` random ones to evaluate on.

    If `train_images` is not 0, only so many random ones are trained on. Both in the order of the
    files. The choice is the same in all runs, so that their results can be compared.

    Raises:
      UsageError: there are not so many.
    """
    if not 0 <= validation < examples:
        raise UsageError(
            f'config.validation is {validation}; it must be less than the {examples} training '
            'images it is taken from.'
        )
    rest = examples - validation
    if not 0 <= train_images <= rest:
        raise UsageError(
            f'config.train_images is {train_images}; there are {rest} training images. 0 is all.'
        )
    order = np.random.default_rng(0).permutation(examples)
    held_out, kept = order[:validation], order[validation:][: train_images or rest]
    return np.sort(kept), np.sort(held_out)


def pixel_statistics(name: str, data_dir: str, train: Split) -> tuple[np.ndarray, np.ndarray]:
    """`train.pixel_statistics()` of the whole training split, kept beside the prepared data."""
    path = os.path.join(builder(name, data_dir).data_path, 'pixel_statistics.json')
    if os.path.exists(path):
        with open(path) as file:
            kept = json.load(file)
        return np.array(kept['mean'], np.float32), np.array(kept['std'], np.float32)
    mean, std = train.pixel_statistics()
    if os.access(os.path.dirname(path), os.W_OK):
        part = f'{path}.{os.getpid()}'  # other runs may start now
        with open(part, 'w') as file:
            json.dump({'mean': mean.tolist(), 'std': std.tolist()}, file)
        os.replace(part, path)
    return mean, std


def _read(prepared, split: str) -> Split:
    examples = examples_in(prepared, split)
    source = prepared.as_data_source(split)
    images, labels = [], []
    for start in range(0, examples, READ_BLOCK):
        block = source.__getitems__(range(start, min(start + READ_BLOCK, examples)))
        images.append(np.stack([example['image'] for example in block]))
        labels.append(np.array([example['label'] for example in block], np.int32))
    return Split(np.concatenate(images), np.concatenate(labels))
