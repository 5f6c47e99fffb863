"""A dataset of the user's own images, from a folder or an archive with a folder for each class."""

import collections
import posixpath
import warnings
from pathlib import Path, PurePosixPath

import tensorflow_datasets as tfds

from lcn_jax.data.builders import archives, encoded
from lcn_jax.errors import UsageError

# Folder of a split -> the split's name in the dataset.
SPLITS = {name: name for name in ('train', 'validation', 'test')}
SPLITS |= {'val': 'validation', 'valid': 'validation'}


class Folder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images from {train,val,test}/CLASS/ or, all of them to train on, from CLASS/.

    The classes are in the order of their names. The images are greyscale if all files are, else
    RGB, and upright as their EXIF data say. A warning counts the files that are no images.
    """

    VERSION = tfds.core.Version('1.0.0')

    def __init__(self, *, name: str, source: Path, **kwargs):
        self.name = name
        self._source = source
        with archives.files(source) as files:
            self._splits = classes_of_images(files, source)
            shapes = {
                encoded.shape(*_image(files, path, source))
                for images in self._splits.values()
                for path in images
            }
        self._channels = max(channels for *_, channels in shapes)
        sizes = {(height, width) for height, width, _ in shapes}
        self._size = sizes.pop() if len(sizes) == 1 else (None, None)
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            'image': tfds.features.Image(shape=(*self._size, self._channels)),
            'label': tfds.features.ClassLabel(names=sorted(set(self._splits['train'].values()))),
            'file_name': tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f'Images from the folders of classes in {self._source.name}.',
            features=tfds.features.FeaturesDict(features),
            supervised_keys=('image', 'label'),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(images) for split, images in self._splits.items()}

    def _generate_examples(self, images):
        with archives.files(self._source) as files:
            for path, label in images.items():
                image = encoded.stored(*_image(files, path, self._source), self._channels)
                yield path, {'image': image, 'label': label, 'file_name': path}


def _image(files: archives.Files, path: str, source: Path) -> tuple[bytes, str]:
    """The image, upright, and what errors call it."""
    name = f'{source}: {path}'
    return encoded.upright(files[path](), name), name


def classes_of_images(files: archives.Files, source: Path) -> dict[str, dict[str, str]]:
    """Split -> path -> class of all images.

    UsageError if the images are not in folders of splits and classes, there are fewer than two
    classes, a class has no images to train on, or a name cannot be kept as it is.
    """
    images = sorted(path for path in files if archives.is_image(path))
    if not images:
        raise UsageError(f'there are no images in {source}.')
    others = collections.Counter(
        PurePosixPath(path).suffix.lower() for path in files if not archives.is_image(path)
    )
    if others:
        kinds = ', '.join(f'{count} {kind or "without suffix"}' for kind, count in others.items())
        warnings.warn(
            f'{source}: left out, for these are not the names of images: {kinds}.', stacklevel=2
        )
    root = posixpath.commonpath([posixpath.dirname(path) for path in images])
    if posixpath.basename(root).lower() in SPLITS:  # the only split
        root = posixpath.dirname(root)
    found, depths = {}, set()
    for path in images:
        parts = PurePosixPath(path).relative_to(root).parts
        match parts:
            case [split, label, _] if split.lower() in SPLITS:
                split = SPLITS[split.lower()]
            case [label, _]:
                split = 'train'
            case _:
                split, label = None, ''
        depths.add(len(parts))
        if split is None or len(depths) > 1:
            raise UsageError(
                f'{source}: {path} is not where an image should be: they must all be in folders of '
                'classes, or all in folders of classes in train, val and test.'
            )
        found.setdefault(split, {})[path] = label
        if path.encode(errors='replace').decode() != path:
            raise UsageError(
                f'{source}: the name {path!a} is no text in the encoding of this locale: rename '
                'it, or set PYTHONUTF8=1 if it is UTF-8.'
            )
        # tfds keeps the names of the classes in the lines of a text file, which it strips.
        if label.strip().splitlines() != [label]:
            raise UsageError(
                f'{source}: the class of {path!a} cannot be kept under this name: rename it, '
                'without blanks at the ends and line breaks.'
            )

    trained = set(found.get('train', {}).values())
    if trained and trained <= {*SPLITS}:
        raise UsageError(
            f'{source}: {images[0]} is in no folder of a class: put the images of each class in a '
            f'folder of its own, as in {next(iter(trained))}/CLASS/.'
        )
    if len(trained) < 2:
        raise UsageError(f'{source}: there must be training images of two classes at least.')
    for split, labels in found.items():
        for label in sorted(set(labels.values()) - trained):
            raise UsageError(f'{source}: class {label} has {split} images but none to train on.')
    return found
