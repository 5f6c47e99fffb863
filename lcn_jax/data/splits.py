"""The splits of a prepared dataset: encoded images on disk, or all of them in memory."""

import dataclasses
import functools
from typing import Any

import numpy as np

from lcn_jax.data.builders import encoded
from lcn_jax.data.specs import Spec
from lcn_jax.errors import UsageError

READ_BLOCK = 1000  # reading records together is twice as fast as one by one

Example = tuple[bytes, int, str]  # encoded image, label, a name of the image for messages


@dataclasses.dataclass(frozen=True)
class Images:
    """Images (N, H, W, C) uint8 and labels (N,) int32, in the order of the files."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

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


@dataclasses.dataclass(frozen=True)
class Split:
    """Encoded images in the folder of a prepared dataset: those of split `name` in `examples`.

    Opens its files when the first image is read; a copy in another process opens its own.
    """

    folder: str
    name: str
    spec: Spec
    examples: np.ndarray

    def __len__(self) -> int:
        return len(self.examples)

    def take(self, chosen: np.ndarray) -> 'Split':
        return dataclasses.replace(self, examples=self.examples[chosen])

    def __getitem__(self, index: int) -> Example:
        """UsageError if the image cannot be read, or if its label is not one of the classes."""
        example = int(self.examples[index])
        try:
            record = self._records[example]
        except RuntimeError as error:  # array_record raises nothing else; it has checksums
            raise UsageError(
                f'image {example} of {self.name} in {self.folder} cannot be read ({error}): if it '
                'is damaged, delete the folder and prepare the dataset again.'
            ) from error
        return self._parse(example, record)

    def read(self) -> Images:
        """Decodes all images; UsageError as `[]`, or if one is corrupt or of another size."""
        shape = self.spec.common_shape
        images = np.empty((len(self), *shape), np.uint8)
        labels = np.empty(len(self), np.int32)
        for start in range(0, len(self), READ_BLOCK):
            for i, (file, label, name) in enumerate(self._block(start), start):
                image = encoded.decode(file, name, shape[2])
                if image.shape != shape:
                    raise UsageError(f'{name} has shape {image.shape}; the dataset has {shape}.')
                images[i], labels[i] = image, label
        return Images(images, labels)

    def _block(self, start: int) -> list[Example]:
        examples = self.examples[start : start + READ_BLOCK].tolist()
        try:
            records = self._records.__getitems__(examples)
        except RuntimeError:  # one of them is corrupt: find out which
            return [self[start + i] for i in range(len(examples))]
        return list(map(self._parse, examples, records))

    def _parse(self, example: int, record: dict[str, Any]) -> Example:
        name = f'image {example} of {self.name} in {self.folder}'
        if 'file_name' in record:
            name = f'{record["file_name"].decode()}, {name},'
        label = int(record[self.spec.label])
        if not 0 <= label < self.spec.num_classes:
            raise UsageError(
                f'{name} has label {label}, which is none of the {self.spec.num_classes} '
                'classes; a split without labels cannot be used to learn or evaluate.'
            )
        return record[self.spec.image], label, name

    @functools.cached_property
    def _records(self) -> Any:
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(self.folder).as_data_source(
            self.name,
            decoders={self.spec.image: tfds.decode.SkipDecoding()},
            file_format='array_record',
        )

    def __getstate__(self):
        # Open files do not go to other processes.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
