"""Small archives in the layouts of the official ones, of random images that are always the same."""

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lcn_jax.data.prepare import prepare
from lcn_jax.data.sources import Source
from lcn_jax.errors import UsageError
from lcn_jax.training import config as configs

WNIDS = ('n01443537', 'n01440764', 'n02102040')  # not sorted, as in TinyImageNet's wnids.txt


def pictures(number: int, size: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """(number, *size) uint8, smooth enough to survive JPEG and resizing."""
    coarse = np.random.RandomState(seed).randint(0, 256, (number, 4, 4, 3)).astype(np.uint8)
    height, width = size
    large = [Image.fromarray(image).resize((width, height), 2) for image in coarse]
    return np.stack([np.asarray(image) for image in large])


def encode(image: np.ndarray, file_format: str = 'PNG', mode: str = 'RGB') -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, file_format)
    return file.getvalue()


def tar(members: dict[str, bytes], compression: str = '') -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f'w:{compression}') as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def littered(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files with what macOS, Windows and a NAS leave beside them, and text from Windows."""
    litter = {}
    for name, content in files.items():
        folder, slash, base = name.rpartition('/')
        if base.endswith(('.txt', '.csv')):
            lines = content.decode().splitlines()
            content = '\r\n\r\n'.join([*lines, '']).encode('utf-8-sig')
        litter[name] = content
        for junk in f'.DS_Store ._{base} Thumbs.db desktop.ini .ipynb_checkpoints/1.png'.split():
            litter[f'{folder}{slash}{junk}'] = b'\0\5\x16\7'
        litter[f'__MACOSX/{folder}{slash}._{base}'] = litter[f'{folder}{slash}@eaDir/{base}'] = b''
    return litter


def tiny_imagenet_files() -> dict[str, bytes]:
    """Path -> content; one training image of each class and one validation image are greyscale."""
    images = iter(pictures(5 * len(WNIDS), (64, 64)))
    files = {'wnids.txt': '\n'.join(WNIDS).encode()}
    for wnid in WNIDS:
        for i in range(4):
            content = encode(next(images), mode='L' if i == 1 else 'RGB')
            files[f'train/{wnid}/images/{wnid}_{i}.JPEG'] = content
    for i in range(len(WNIDS)):
        files[f'val/images/val_{i}.JPEG'] = encode(next(images), mode='L' if i == 1 else 'RGB')
    lines = [f'val_{i}.JPEG\t{wnid}\t0\t0\t63\t63' for i, wnid in enumerate(WNIDS)]
    return files | {'val/val_annotations.txt': '\n'.join(lines).encode()}


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write(path: Path, files: dict[str, bytes], form: str) -> Path:
    """Writes the files as a 'folder', 'zip' or 'tar', or as a tar with a compression: 'tar.gz'."""
    if form == 'folder':
        return write_folder(path, files)
    if form == 'zip':
        with zipfile.ZipFile(path, 'w') as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        path.write_bytes(tar(files, form.removeprefix('tar').removeprefix('.')))
    return path


def imagenet_images(per_class: int = 4) -> tuple[dict[str, dict[str, bytes]], dict[str, bytes]]:
    """Wnid -> name -> training image, and name -> validation image, of the classes in order."""
    images = iter(pictures(len(WNIDS) * (per_class + 1), (60, 80), seed=1))
    train = {
        wnid: {f'{wnid}_{i}.JPEG': encode(next(images)) for i in range(per_class)} for wnid in WNIDS
    }
    names = [f'ILSVRC2012_val_{i:08d}.JPEG' for i in range(1, len(WNIDS) + 1)]
    last_first = {name: encode(next(images)) for name in reversed(names)}
    return train, {name: last_first[name] for name in names}


def imagenet_files(beside: Callable[[dict], dict] = dict, per_class: int = 4) -> dict[str, bytes]:
    """The two tars and the labels. Names are not in order; `beside` adds to what is in the tars."""
    train, validation = imagenet_images(per_class)
    tars = {f'{wnid}.tar': tar(beside(images)) for wnid, images in train.items()}
    return {
        'ILSVRC2012_img_train.tar': tar(beside(tars)),
        'ILSVRC2012_img_val.tar': tar(beside(dict(reversed(validation.items())))),
        'labels.txt': '\n'.join(WNIDS).encode(),
    }


def imagenet_kaggle_files() -> dict[str, bytes]:
    """The same as Kaggle packs it."""
    train, validation = imagenet_images()
    data, annotations = 'ILSVRC/Data/CLS-LOC', 'ILSVRC/Annotations/CLS-LOC'
    files = {f'{data}/test/ILSVRC2012_test_00000001.JPEG': b'', 'LOC_synset_mapping.txt': b''}
    for wnid, images in train.items():
        for name, image in images.items():
            files[f'{data}/train/{wnid}/{name}'] = image
            files[f'{annotations}/train/{wnid}/{name.removesuffix("JPEG")}xml'] = b'<annotation/>'
    rows = ['ImageId,PredictionString']
    for (name, image), wnid in zip(validation.items(), WNIDS):
        files[f'{data}/val/{name}'] = image
        places = f'{wnid} 85 1 499 272 ' * (len(rows) % 2 + 1)  # of one object or two
        rows.insert(1, f'{name.removesuffix(".JPEG")},{places}')  # not in the order of the names
    return files | {'LOC_val_solution.csv': '\n'.join(rows).encode()}


def imagenet_folders() -> dict[str, bytes]:
    """The same in folders of classes."""
    train, validation = imagenet_images()
    files = {f'train/{w}/{name}': train[w][name] for w in train for name in train[w]}
    return files | {f'val/{w}/{name}': image for w, (name, image) in zip(WNIDS, validation.items())}


def cifar_rows(number: int, classes: tuple[int, ...], seed: int) -> np.ndarray:
    """(number, len(classes) + 3072) uint8: labels below `classes`, then pixels, channel first."""
    labels = [np.arange(number) * (7 + i) % count for i, count in enumerate(classes)]
    pixels = pictures(number, (32, 32), seed).transpose(0, 3, 1, 2).reshape(number, -1)
    return np.concatenate([np.stack(labels, 1).astype(np.uint8), pixels], 1)


def _cifar10_rows() -> dict[str, np.ndarray]:
    names = [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch']
    return {name: cifar_rows(4, (10,), seed) for seed, name in enumerate(names)}


def _cifar100_rows() -> dict[str, np.ndarray]:
    return {'train': cifar_rows(20, (20, 100), 0), 'test': cifar_rows(10, (20, 100), 1)}


def cifar10_files() -> dict[str, bytes]:
    files = {f'{name}.bin': rows.tobytes() for name, rows in _cifar10_rows().items()}
    return files | {'batches.meta.txt': '\n'.join(f'class {i}' for i in range(10)).encode()}


def cifar100_files() -> dict[str, bytes]:
    files = {f'{name}.bin': rows.tobytes() for name, rows in _cifar100_rows().items()}
    for kind, classes in (('coarse', 20), ('fine', 100)):
        names = '\n'.join(f'{kind} {i}' for i in range(classes))
        files[f'{kind}_label_names.txt'] = names.encode()
    return files


class _Python2(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, content):
        if self.proto == 0:
            self.write(pickle.STRING + repr(content)[1:].encode() + b'\n')
        else:
            self.write(pickle.BINSTRING + struct.pack('<i', len(content)) + content)
        self.memoize(content)

    dispatch[bytes] = save_string


def python2_pickle(value, protocol: int = 2) -> bytes:
    """A pickle as Python 2 wrote it, with its names of numpy's modules; strings are bytes here."""
    file = io.BytesIO()
    _Python2(file, protocol).dump(value)
    return file.getvalue().replace(b'numpy._core', b'numpy.core')


def _python_batch(rows: np.ndarray, keys: tuple[bytes, ...]) -> bytes:
    """A batch of the Python version; its keys for the first columns of `rows`."""
    batch = {
        b'batch_label': b'batch',
        b'filenames': [b'%d.png' % number for number in range(len(rows))],
        b'data': np.ascontiguousarray(rows[:, len(keys) :]),
    }
    return python2_pickle(batch | {key: rows[:, i].tolist() for i, key in enumerate(keys)})


def cifar10_python_files() -> dict[str, bytes]:
    """The images of `cifar10_files` in the Python version."""
    files = {name: _python_batch(rows, (b'labels',)) for name, rows in _cifar10_rows().items()}
    names = [b'class %d' % i for i in range(10)]
    meta = {b'num_cases_per_batch': 4, b'label_names': names, b'num_vis': 3072}
    return files | {'batches.meta': python2_pickle(meta, protocol=0), 'readme.html': b''}


def cifar100_python_files() -> dict[str, bytes]:
    """The images of `cifar100_files` in the Python version."""
    keys = (b'coarse_labels', b'fine_labels')
    files = {name: _python_batch(rows, keys) for name, rows in _cifar100_rows().items()}
    meta = {
        b'fine_label_names': [b'fine %d' % i for i in range(100)],
        b'coarse_label_names': [b'coarse %d' % i for i in range(20)],
    }
    return files | {'meta': python2_pickle(meta)}


def under(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f'{folder}/{name}': content for name, content in files.items()}


def cut(content: bytes, part: float = 0.6) -> bytes:
    return content[: int(len(content) * part)]


def changed(files: dict[str, bytes], changes: dict) -> dict[str, bytes]:
    """The files with other contents, given or computed from the old ones; None takes one out."""
    files = dict(files)
    for name, content in changes.items():
        files[name] = content(files[name]) if callable(content) else content
    return {name: content for name, content in files.items() if content is not None}


def check_refused(folder: Path, name: str, source: Path, message: str, val_labels=None) -> None:
    """One line that names the source, and nothing that could be mistaken for data."""
    data_dir = folder / 'data'
    with pytest.raises(UsageError, match=message) as error:
        prepare(name, str(data_dir), str(source), val_labels)
    assert str(source) in str(error.value)
    assert '\n' not in str(error.value)
    assert [path for path in data_dir.rglob('*') if path.is_file()] == []
    with pytest.raises(UsageError, match=r'has not been prepared|there is no folder'):
        Source(name, str(data_dir)).split('train')


def prepare_all(folder: Path) -> str:
    """Prepares every dataset from its small archive; returns the data_dir."""
    data_dir = str(folder / 'data')
    imagenet = write_folder(folder / 'imagenet', imagenet_files())
    prepare('digits', data_dir)
    prepare('cifar10', data_dir, str(write_folder(folder / 'cifar10', cifar10_files())))
    prepare('cifar100', data_dir, str(write_folder(folder / 'cifar100', cifar100_files())))
    zip_file = write(folder / 'tiny.zip', under('tiny-imagenet-200', tiny_imagenet_files()), 'zip')
    prepare('tiny_imagenet', data_dir, str(zip_file))
    prepare('imagenet2012', data_dir, str(imagenet), str(imagenet / 'labels.txt'))
    return data_dir


def config_for(dataset: str, data_dir: str, image_size: int = 8, batch_size: int = 8):
    """Two epochs of a network without stages."""
    config = configs.default()
    config.dataset, config.data_dir, config.image_size = dataset, data_dir, image_size
    config.model.stage_sizes, config.model.width = (), 2
    config.batch_size, config.epochs, config.workers = batch_size, 2, 0
    if dataset in ('imagenet2012', 'postcards'):  # of images that differ in size
        config.mean, config.std = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
    return config
