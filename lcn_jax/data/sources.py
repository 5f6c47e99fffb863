"""Datasets prepared by tensorflow-datasets, read without tensorflow."""

import contextlib
import dataclasses
import functools
import io
import json
import os
from typing import Any

import ml_collections
import numpy as np

from lcn_jax import files
from lcn_jax.data import specs
from lcn_jax.data.specs import SPECS, Spec
from lcn_jax.data.splits import Split
from lcn_jax.errors import UsageError

FORMAT = 'array_record'  # tfds' file format that can be read without tensorflow


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset prepared under `data_dir`, read when it is needed; errors are UsageErrors.

    name: of a dataset in SPECS; 'module:Builder'; or anything that tfds finds prepared under
    `data_dir`: 'fashion_mnist', 'name/config', 'name:version'.
    """

    name: str
    data_dir: str

    @functools.cached_property
    def spec(self) -> Spec:
        return SPECS[self.name] if self.name in SPECS else specs.describe(self.builder)

    @functools.cached_property
    def builder(self) -> Any:
        """The tfds builder of the prepared dataset; if that needs no source, prepared now."""
        if '://' in self.data_dir and not self.data_dir.startswith('gs://'):
            raise UsageError(
                f'datasets are read from folders and gs:// buckets, not from {self.data_dir}: copy '
                'it to a folder, or mount it as one.'
            )
        folder = files.locate(self.data_dir)
        known = SPECS.get(self.name)
        on_first_use = known is not None and known.source is None
        if not (on_first_use or folder.is_dir()):
            raise UsageError(
                f'there is no folder {folder}: set --config.data_dir to where {self.name} has been '
                'prepared.'
            )
        builder = self._find(folder)
        if builder is None and on_first_use:
            import tensorflow_datasets as tfds

            tfds.disable_progress_bar()  # it takes a second
            write(specs.builder_class(self.name)(data_dir=folder))
            builder = self._find(folder)
        if builder is None:
            unknown = f'is none of {", ".join(sorted(SPECS))}, and '
            source = ', for images of your own with --source=PATH'
            if known is not None:
                unknown, source = '', f' --source=PATH, where PATH is {known.source}'
            raise UsageError(
                f'{self.name} {unknown}has not been prepared in {self.data_dir}; run: '
                f'python -m experiments.prepare --dataset={self.name} --data_dir={self.data_dir}'
                f'{source}.'
            )
        check_format(builder)
        return builder

    def split(self, name: str) -> Split:
        splits = self.builder.info.splits
        if name not in splits or not splits[name].num_examples:
            raise UsageError(
                f'there are no {name} images in {self.builder.data_path}; it has '
                f'{", ".join(splits) or "no splits"}. Prepare the dataset again in another folder.'
            )
        examples = np.arange(splits[name].num_examples)
        return Split(os.fspath(self.builder.data_path), name, self.spec, examples)

    def train_and_evaluated(self, validation: int, train_images: int) -> tuple[Split, Split]:
        """The images to train on, as `hold_out` chooses them, and those to evaluate on.

        The latter are the `validation` images held out, if that is not 0, else the dataset's split.
        """
        train = self.split('train')
        kept, held_out = hold_out(len(train), validation, train_images)
        if validation:
            return train.take(kept), train.take(held_out)
        if self.spec.evaluation is None:
            raise UsageError(
                f'{self.name} has no split test or validation to evaluate on: hold out training '
                'images with config.validation.'
            )
        return train.take(kept), self.split(self.spec.evaluation)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, in the order of the labels."""
        return tuple(self.builder.info.features[self.spec.label].names)

    def pixel_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (C,) of the pixels of all training images, in [0, 1].

        Computed once, and kept beside the prepared data if that can be written to.
        """
        path = self.builder.data_path / 'pixel_statistics.json'
        if path.exists():
            kept = files.read_json(path, 'delete it, and it is computed again')
            return np.array(kept['mean'], np.float32), np.array(kept['std'], np.float32)
        mean, std = self.split('train').read().pixel_statistics()
        with contextlib.suppress(UsageError):
            files.write_text(path, files.to_json({'mean': mean.tolist(), 'std': std.tolist()}))
        return mean, std

    def _find(self, folder: Any) -> Any:
        """A reader of the prepared dataset, which needs no code of its builder; None if missing."""
        from google.protobuf import json_format
        from tensorflow_datasets.core import read_only_builder

        name = specs.builder_class(self.name).name if specs.is_plugin(self.name) else self.name
        with files.reading(folder / name):
            try:
                return read_only_builder.builder_from_files(name, data_dir=folder)
            except (json.JSONDecodeError, json_format.ParseError) as error:
                raise UsageError(
                    f'the description of {name} in {folder} is damaged ({error}): delete '
                    f'{folder / name}, and prepare the dataset again.'
                ) from error
            except ValueError:  # not found, or not a name
                versions = (folder / name).iterdir() if (folder / name).is_dir() else ()
                for version in versions:
                    if version.is_dir():
                        list(version.iterdir())  # tfds does not find what may not be read
                return None


def normalisation(
    config: ml_collections.ConfigDict, source: Source
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (C,) float32 to normalise images with.

    Those of `config`, else those of the training images. UsageError if they cannot be computed, or
    a standard deviation is not positive.
    """
    if config.mean:
        mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
    elif source.spec.fits:
        mean, std = source.pixel_statistics()
    else:
        raise UsageError(
            f'set config.mean and config.std: those of {source.name}, whose images differ in size, '
            'are not computed.'
        )
    if not (std > 0).all():
        raise UsageError(
            f'the standard deviation of a channel is not positive ({std.tolist()}): set '
            'config.mean and config.std.'
        )
    return mean, std


def hold_out(examples: int, validation: int, train_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the examples to train on, and of `validation` random ones to evaluate on.

    If `train_images` is not 0, only that many random ones are trained on. Both are in the order of
    the files, and the same in all runs, so that results can be compared. UsageError if there are
    too few.
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


def write(builder: Any) -> None:
    """Writes the dataset of a tfds builder; UsageError if it cannot be written."""
    # tfds says of local files, too, that it downloads something of unknown size.
    with files.writing(builder.data_path), contextlib.redirect_stdout(io.StringIO()):
        try:
            builder.download_and_prepare(file_format=FORMAT)
        except OSError:
            if not builder.is_prepared():  # another process may have been faster
                raise


def check_format(builder: Any) -> None:
    """UsageError if a prepared dataset cannot be read without tensorflow."""
    formats = {known.value for known in builder.info.available_file_formats()}
    if FORMAT not in formats:
        raise UsageError(
            f'{builder.data_path} holds {", ".join(sorted(formats))} files, which tensorflow '
            f'wrote; only {FORMAT} files are read: prepare {builder.name} in another --data_dir, '
            'and set --config.data_dir to it.'
        )
