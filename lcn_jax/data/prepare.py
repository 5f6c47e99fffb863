"""Writes a dataset in the form that training reads, once, without tensorflow.

tfds writes into a folder of another name and renames it at the end, so what is interrupted is never
taken for whole.
"""

import contextlib
import importlib.util
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lcn_jax.data import archives, sources
from lcn_jax.errors import UsageError
from lcn_jax.files import make_folder


def prepare(
    dataset: str, data_dir: str, source: str | None = None, val_labels: str | None = None
) -> dict[str, int]:
    """Prepares `dataset` under `data_dir`, unless that has been done.

    Args:
      source: what `sources.SPECS` says the dataset is prepared from; digits need none.
      val_labels: for ImageNet with other validation images than the official ones: a file with the
        wnid of each, one a line, in the order of the image files.

    Returns:
      The number of examples of each split.

    Raises:
      UsageError: `source` is not there, not what it should be, or corrupt. No data is left behind.
    """
    from_what = sources.spec(dataset, data_dir).source
    if val_labels and dataset != 'imagenet2012':
        raise UsageError(f'--val_labels is for imagenet2012, not for {dataset}.')
    if source and not from_what:
        raise UsageError(f'{dataset} needs nothing to be prepared from: leave out --source.')
    if source and not os.path.exists(os.path.expanduser(source)):
        raise UsageError(f'there is no {source}.')
    downloads = dataset.startswith('cifar') and importlib.util.find_spec('tensorflow')
    if from_what and not source and not downloads:
        raise UsageError(f'set --source to {from_what}.')

    path = Path(source).expanduser() if source else None
    labels = Path(val_labels).expanduser() if val_labels else None
    make_folder(os.path.expanduser(data_dir))
    with contextlib.ExitStack() as stack:
        if dataset.startswith('cifar') and path:
            path = stack.enter_context(_cifar_folder(path))
        builder = _builder(dataset, os.path.expanduser(data_dir), path, labels)
        builder.download_and_prepare()
    return {name: split.num_examples for name, split in builder.info.splits.items()}


def _builder(dataset: str, data_dir: str, source: Path | None, val_labels: Path | None):
    import tensorflow_datasets as tfds

    from lcn_jax.data import official
    from lcn_jax.data.digits import Digits
    from lcn_jax.data.tiny_imagenet import TinyImagenet

    place = {'data_dir': data_dir, 'file_format': 'array_record'}
    match dataset:
        case 'digits':
            return Digits(**place)
        case 'tiny_imagenet':
            return TinyImagenet(source=source, **place)
        case 'imagenet2012':
            return official.Imagenet2012(source=source, val_labels=val_labels, **place)
    if source is None:
        return tfds.builder(dataset, **place)
    cifar = {'cifar10': official.Cifar10, 'cifar100': official.Cifar100}[dataset]
    return cifar(source=source, **place)


@contextlib.contextmanager
def _cifar_folder(source: Path) -> Iterator[Path]:
    """The folder of the binary files, for as long as it is needed if `source` is an archive."""
    if source.is_dir():
        inside = [folder for folder in source.glob('cifar-*') if folder.is_dir()]
        yield inside[0] if inside else source
        return
    with tempfile.TemporaryDirectory() as temporary:
        with archives.blame(source), tarfile.open(source) as tar:
            tar.extractall(temporary, filter='data')
        with _cifar_folder(Path(temporary)) as folder:
            yield folder
