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
            self.info.features['label'].names, splits = _labels(files, self._source)
        return {split: self._generate_examples(labels) for split, labels in splits.items()}

    def _generate_examples(self, labels):
        with archives.files(self._source) as files:
            for path, wnid in labels.items():
                if path not in files:
                    raise UsageError(f'{self._source}: there is no {path}.')
                name = PurePosixPath(path).name
                image = encoded.stored(files[path](), f'{self._source}: {path}')
                yield name, {'image': image, 'label': wnid, 'file_name': name}


def _labels(files: archives.Files, source: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The wnids of the classes, and split -> path -> wnid of the images."""
    roots = archives.folders_with('wnids.txt', files)
    if len(roots) != 1:
        raise UsageError(f'{source} is not TinyImageNet: there must be one wnids.txt in it.')
    (root,) = roots

    def lines(file, what):
        if root + file not in files:
            raise UsageError(f'{source}: there is no {root}{file}.')
        found = archives.lines(files[root + file](), f'{source}: {root}{file}')
        if not found:
            raise UsageError(f'{source}: {root}{file} lists no {what}.')
        return found

    wnids, annotations = lines('wnids.txt', 'classes'), 'val/val_annotations.txt'
    if len(set(wnids)) < len(wnids):
        raise UsageError(f'{source}: {root}wnids.txt lists a class twice.')
    train, validation = {}, {}
    for path in files:
        match path.removeprefix(root).split('/'):
            case ['train', wnid, 'images', name] if wnid in wnids and archives.is_image(name):
                train[path] = wnid
    for wnid in sorted(set(wnids) - set(train.values())):
        raise UsageError(f'{source}: there are no training images of class {wnid}.')
    for line in lines(annotations, 'images'):
        match line.split('\t'):
            case [name, wnid, *_] if wnid in wnids:
                validation[f'{root}val/images/{name}'] = wnid
            case _:
                raise UsageError(
                    f'{source}: {root}{annotations} has a line without a class of wnids.txt: '
                    f'{line!r}.'
                )
    return wnids, {'train': train, 'validation': validation}
