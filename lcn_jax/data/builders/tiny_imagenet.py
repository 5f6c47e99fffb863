"""The `tiny_imagenet` dataset, from its official zip file or the folder that unpacks to."""

from pathlib import Path, PurePosixPath

import tensorflow_datasets as tfds

from lcn_jax.data.builders import archives, encoded
from lcn_jax.errors import UsageError


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
    """TinyImageNet: 64×64 colour images of 200 ImageNet classes.

    500 of each class to train and 50 to validate; the official test images have no labels and are
    left out. The classes are those in `wnids.txt`, in its order, so a zip with fewer of them works.
    Greyscale images are stored as colour images.
    """

    VERSION = tfds.core.Version('1.0.0')

    def __init__(self, *, source: Path, **kwargs):
        super().__init__(**kwargs)
        self._source = source

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            'image': tfds.features.Image(shape=(64, 64, 3)),
            'label': tfds.features.ClassLabel(),  # named when the wnids are known
            'file_name': tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=('image', 'label'),
            homepage='http://cs231n.stanford.edu/',
        )

    def _split_generators(self, dl_manager):
        with archives.files(self._source) as files:
            roots = archives.folders_with('wnids.txt', files)
            if len(roots) != 1:
                raise UsageError(
                    f'{self._source} is not TinyImageNet: there must be one wnids.txt in it.'
                )
            wnids = _wnids(files, roots[0], self._source)
            train = _train_labels(files, roots[0], wnids, self._source)
            validation = _validation_labels(files, roots[0], wnids, self._source)
        self.info.features['label'].names = wnids
        return {
            'train': self._generate_examples(train),
            'validation': self._generate_examples(validation),
        }

    def _generate_examples(self, labels):
        with archives.files(self._source) as files:
            for path, wnid in labels.items():
                if path not in files:
                    raise UsageError(f'{self._source}: there is no {path}.')
                name = PurePosixPath(path).name
                image = encoded.stored(files[path](), f'{self._source}: {path}')
                yield name, {'image': image, 'label': wnid, 'file_name': name}


def _wnids(files, root, source) -> list[str]:
    name = f'{root}wnids.txt'
    wnids = archives.lines(files[name](), f'{source}: {name}')
    if not wnids:
        raise UsageError(f'{source}: {name} lists no classes.')
    if len(set(wnids)) < len(wnids):
        raise UsageError(f'{source}: {name} lists a class twice.')
    return wnids


def _train_labels(files, root, wnids, source) -> dict[str, str]:
    """Path -> wnid."""
    labels = {}
    for path in files:
        match path.removeprefix(root).split('/'):
            case ['train', wnid, 'images', name] if wnid in wnids and archives.is_image(name):
                labels[path] = wnid
    for wnid in sorted(set(wnids) - set(labels.values())):
        raise UsageError(f'{source}: there are no training images of class {wnid}.')
    return labels


def _validation_labels(files, root, wnids, source) -> dict[str, str]:
    """Path -> wnid."""
    annotations = f'{root}val/val_annotations.txt'
    if annotations not in files:
        raise UsageError(f'{source}: there is no {annotations}.')
    labels = {}
    for line in archives.lines(files[annotations](), f'{source}: {annotations}'):
        match line.split('\t'):
            case [name, wnid, *_] if wnid in wnids:
                labels[f'{root}val/images/{name}'] = wnid
            case _:
                raise UsageError(
                    f'{source}: {annotations} has a line without a class of wnids.txt: {line!r}.'
                )
    if not labels:
        raise UsageError(f'{source}: {annotations} lists no images.')
    return labels
