"""Writes a dataset in the form that training reads, once, without tensorflow.

tfds writes into a folder of another name and renames it at the end, so an interrupted attempt is
never mistaken for a whole dataset.
"""

import importlib.util
import re
from pathlib import Path
from typing import Any

from lcn_jax import files
from lcn_jax.data import sources, specs
from lcn_jax.data.specs import SPECS
from lcn_jax.errors import UsageError


def prepare(
    dataset: str, data_dir: str, source: str | None = None, val_labels: str | None = None
) -> dict[str, int]:
    """Prepares `dataset` under `data_dir`, unless that has been done.

    Args:
      dataset: one of SPECS; 'module:Builder'; an image classification dataset of tfds, which needs
        tensorflow; or a new name for the images of `source`, which are in folders of classes.
      source: what SPECS says the dataset is prepared from; passed to a builder of the user's own.
      val_labels: for ImageNet with other validation images, as `Imagenet2012` takes it.

    Returns:
      The number of examples of each split.

    Raises:
      UsageError: `source` does not exist, is not what it should be, or is corrupt; or the dataset
        cannot be written. No data is left behind.
    """
    if val_labels and not (dataset in SPECS and 'val_labels' in SPECS[dataset].options):
        raise UsageError(f'leave out --val_labels: it is not an option of {dataset}.')
    folder = _local('data_dir', data_dir)
    given = {'source': source, 'val_labels': val_labels}
    given = {flag: _local(flag, path) for flag, path in given.items() if path}
    for path in given.values():
        if not path.exists():
            raise UsageError(f'there is no {path}.')

    builder = _builder(dataset, folder, given)
    if not builder.data_path.exists():
        files.make_folder(folder)
        sources.write(builder)
    elif not builder.is_prepared():
        raise UsageError(f'{builder.data_path} is not a whole dataset: delete it and try again.')
    sources.check_format(builder)
    return {name: split.num_examples for name, split in builder.info.splits.items()}


def _local(flag: str, path: str) -> Path:
    if '://' in path:
        raise UsageError(
            f'--{flag}={path} is a URL, but datasets are prepared from files of this machine, into '
            'a folder of it. The folder can be copied to a bucket afterwards.'
        )
    return Path(path).expanduser()


def _builder(dataset: str, folder: Path, given: dict[str, Path]) -> Any:
    """The tfds builder that makes `dataset` in `folder` from the `given` source and labels."""
    import tensorflow_datasets as tfds

    known = SPECS.get(dataset)
    if known is None and not specs.is_plugin(dataset):
        if given:
            return _folder_builder(dataset, folder, **given)
        specs.builder_class(dataset)  # raises if tfds does not know it
        if not _has_tensorflow():
            raise UsageError(
                f'{dataset} is prepared by tfds, which needs tensorflow: pip install '
                "'lcn_jax[prepare]'. For images of your own, give their folder with --source."
            )
        return tfds.builder(dataset, data_dir=folder)
    if known and given and not known.source:
        raise UsageError(f'{dataset} needs nothing to be prepared from: leave out --source.')
    if known and known.source and 'source' not in given:
        if not (known.downloads and _has_tensorflow()):
            raise UsageError(f'set --source to {known.source}.')
        return tfds.builder(dataset, data_dir=folder)
    return specs.builder_class(dataset)(data_dir=folder, **given)


def _has_tensorflow() -> bool:
    return importlib.util.find_spec('tensorflow') is not None


def _folder_builder(name: str, folder: Path, source: Path) -> Any:
    import tensorflow_datasets as tfds

    from lcn_jax.data.builders.folder import Folder

    official = tfds.list_builders(with_community_datasets=False)
    if not re.fullmatch('[a-z][a-z0-9_]*', name) or name in official:
        raise UsageError(
            f'--dataset={name} is neither one of {", ".join(SPECS)}, nor a name for images of your '
            'own: that must be of small letters, digits and _, and not the name of a dataset of '
            'tfds.'
        )
    if source.resolve() == (folder / name).resolve():
        raise UsageError(
            f'{name} would be written into {source} itself: choose another --dataset or --data_dir.'
        )
    prepared = folder / name / str(Folder.VERSION)
    if prepared.exists():
        raise UsageError(
            f'there is already a dataset in {prepared}: choose another --dataset, or delete it.'
        )
    return Folder(name=name, source=source, data_dir=folder)
