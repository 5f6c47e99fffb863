"""The official builder of ImageNet, preparing without tensorflow.

It writes what tfds' own writes, under the same name, from the two official tars, the folders that
they unpack to, or the files as Kaggle packs them.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import basename, splitext

from tensorflow_datasets.datasets.imagenet2012 import imagenet2012_dataset_builder

from lcn_jax.data.builders import archives, encoded
from lcn_jax.errors import UsageError

OFFICIAL_LABELS = Path(imagenet2012_dataset_builder.__file__).with_name('validation_labels.txt')
KAGGLE_LABELS = 'LOC_val_solution.csv'
PLACE = re.compile('(.*/)?(train|val)/(?:([^/]+)/)?[^/]+')  # of an image: folder, split, wnid
Images = Iterator[tuple[str, bytes, str, str]]  # file name, content, wnid, where it is


class Imagenet2012(imagenet2012_dataset_builder.Builder, skip_registration=True):
    """ImageNet. Images that are not RGB are stored as RGB PNGs; test images are left out.

    source: a folder with the two official tars; or a folder or archive with train/WNID/*.JPEG, and
    val/WNID/*.JPEG or val/*.JPEG, somewhere in it.
    val_labels: a file with the wnid of every validation image, one a line, in the order of the file
    names, or a table like Kaggle's. None: Kaggle's if it is in `source`, else the official list.
    """

    name = 'imagenet2012'
    pkg_dir_path = imagenet2012_dataset_builder.Builder.pkg_dir_path

    def __init__(self, *, source: Path, val_labels: Path | None = None, **kwargs):
        super().__init__(**kwargs)
        self._source = source
        self._val_labels = val_labels

    def _split_generators(self, dl_manager):
        source, known = self._source, set(self.info.features['label'].names)
        tars = [source / f'ILSVRC2012_img_{split}.tar' for split in ('train', 'val')]
        if any(tar.is_file() for tar in tars):
            with archives.files(tars[0]) as classes:
                wnids = [_stem(path) for path in classes]
            with archives.files(tars[1]) as files:
                validation = _labelled(list(files), files, tars[1], self._val_labels)
            images = {
                'train': _images_of_classes(tars[0]),
                'validation': _images(tars[1], validation),
            }
        else:
            with archives.files(source) as files:
                train, validation = _in_folders(files, known, source)
                if '' in validation.values():
                    validation = _labelled(list(validation), files, source, self._val_labels)
                elif self._val_labels:
                    raise UsageError(f'leave out --val_labels: {source} has them as folders.')
            wnids = train.values()
            images = {'train': _images(source, train), 'validation': _images(source, validation)}
        for wnid in sorted({*wnids, *validation.values()} - known):
            raise UsageError(f'{source}: {wnid!r} is not one of the {len(known)} classes.')
        return {split: self._generate_examples(found) for split, found in images.items()}

    def _generate_examples(self, images: Images):
        seen = set()
        for name, content, wnid, origin in images:
            if name in seen:
                raise UsageError(f'{origin}: there is another image called {name}.')
            seen.add(name)
            image = encoded.stored(content, origin)
            yield name, {'file_name': name, 'image': image, 'label': wnid}
        if not seen:
            raise UsageError(f'{self._source}: there are no images to train on, or to evaluate.')


def _images_of_classes(tar: Path) -> Images:
    """The images in a tar of one tar for each class."""
    with archives.files(tar) as classes:
        for path, read in classes.items():
            images = archives.files_in_tar(read(), f'{tar}: {path}')
            for image, read_image in images.items():
                yield basename(image), read_image(), _stem(path), f'{tar}: {path}: {image}'


def _images(source: Path, wnids: dict[str, str]) -> Images:
    """The images of `source` with these paths."""
    with archives.files(source) as files:
        for path, wnid in wnids.items():
            yield basename(path), files[path](), wnid, f'{source}: {path}'


def _in_folders(files: archives.Files, known: set[str], source: Path):
    """Path -> wnid of the images in train/ and in val/; '' for those directly in val/."""
    matches = {path: PLACE.fullmatch(path) for path in files if archives.is_image(path)}
    places = {path: match.groups('') for path, match in matches.items() if match}
    roots = {root for root, split, wnid in places.values() if split == 'train' and wnid in known}
    if len(roots) != 1:
        raise UsageError(
            f'{source} is not ImageNet: there must be the two official tars in it, or one folder '
            'train with a folder of images for each class.'
        )
    (root,) = roots
    train = {p: wnid for p, (*place, wnid) in places.items() if place == [root, 'train'] and wnid}
    validation = {path: wnid for path, (*place, wnid) in places.items() if place == [root, 'val']}
    splits = (f'{root}train/', f'{root}val/')
    for path in filter(archives.is_image, files):
        if path.startswith(splits) and path not in train and path not in validation:
            raise UsageError(f'{source}: {path} is not in the folder of a class.')
    if len({bool(wnid) for wnid in validation.values()}) != 1:
        raise UsageError(
            f'{source}: the validation images must be in {root}val, either all of them in folders '
            'of classes or none.'
        )
    return train, validation


def _labelled(
    paths: list[str], files: archives.Files, source: Path, val_labels: Path | None
) -> dict[str, str]:
    """Path -> wnid of validation images."""
    kaggle = [path for path in files if basename(path) == KAGGLE_LABELS]
    if not val_labels and len(kaggle) == 1:
        content, labels_file = files[kaggle[0]](), f'{source}: {kaggle[0]}'
    else:
        labels_file = val_labels or OFFICIAL_LABELS
        content = archives.read(labels_file)
    try:
        rows = list(csv.reader(archives.lines(content, str(labels_file)), strict=True))
    except csv.Error as error:
        raise UsageError(f'{labels_file} is not a list or a table of labels: {error}.') from error

    if all(len(row) == 1 for row in rows):
        if len(rows) != len(paths):
            raise UsageError(
                f'{source} has {len(paths)} validation images and {labels_file} {len(rows)} '
                'labels: give the labels of these images with --val_labels.'
            )
        return {path: row[0] for path, row in zip(sorted(paths, key=basename), rows)}
    # Kaggle's rows: name of the image, wnid and place of an object, wnid and place of the next.
    wnids = {_stem(row[0]): row[1].partition(' ')[0] for row in rows if len(row) > 1}
    for path in paths:
        if not wnids.get(_stem(path)):
            raise UsageError(f'{labels_file} has no label of {path}.')
    return {path: wnids[_stem(path)] for path in paths}


def _stem(path: str) -> str:
    return splitext(basename(path))[0]
