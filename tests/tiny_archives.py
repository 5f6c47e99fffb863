"""Small archives in the layouts of the official ones, of random images that are always the same."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

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


def tar(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def tiny_imagenet_files(per_class: int = 4) -> dict[str, bytes]:
    """Path -> content; one training image of each class and one validation image are greyscale."""
    images = iter(pictures(len(WNIDS) * (per_class + 1), (64, 64)))
    files = {'wnids.txt': '\n'.join(WNIDS).encode()}
    for wnid in WNIDS:
        for i in range(per_class):
            content = encode(next(images), mode='L' if i == 1 else 'RGB')
            files[f'train/{wnid}/images/{wnid}_{i}.JPEG'] = content
    lines = []
    for i, wnid in enumerate(WNIDS):
        files[f'val/images/val_{i}.JPEG'] = encode(next(images), mode='L' if i == 1 else 'RGB')
        lines.append(f'val_{i}.JPEG\t{wnid}\t0\t0\t63\t63')
    files['val/val_annotations.txt'] = '\n'.join(lines).encode()
    return files


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in files.items():
            archive.writestr(f'tiny-imagenet-200/{name}', content)
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def imagenet_files(per_class: int = 4) -> dict[str, bytes]:
    """The two tars and the labels; file names are not in the order of the tar."""
    images = iter(pictures(len(WNIDS) * (per_class + 1), (60, 80), seed=1))
    train = {}
    for wnid in WNIDS:
        members = {f'{wnid}_{i}.JPEG': encode(next(images)) for i in range(per_class)}
        train[f'{wnid}.tar'] = tar(members)
    names = [f'ILSVRC2012_val_{i:08d}.JPEG' for i in range(1, len(WNIDS) + 1)]
    validation = {name: encode(next(images)) for name in reversed(names)}
    return {
        'ILSVRC2012_img_train.tar': tar(train),
        'ILSVRC2012_img_val.tar': tar(validation),
        'labels.txt': '\n'.join(WNIDS).encode(),
    }


def cifar_rows(number: int, classes: tuple[int, ...], seed: int) -> np.ndarray:
    """(number, len(classes) + 3072) uint8: labels below `classes`, then pixels, channel first."""
    labels = [np.arange(number) * (7 + i) % count for i, count in enumerate(classes)]
    pixels = pictures(number, (32, 32), seed).transpose(0, 3, 1, 2).reshape(number, -1)
    return np.concatenate([np.stack(labels, 1).astype(np.uint8), pixels], 1)


def cifar10_files(per_file: int = 4) -> dict[str, bytes]:
    names = [f'data_batch_{i}.bin' for i in range(1, 6)] + ['test_batch.bin']
    files = {name: cifar_rows(per_file, (10,), i).tobytes() for i, name in enumerate(names)}
    return files | {'batches.meta.txt': '\n'.join(f'class {i}' for i in range(10)).encode()}


def cifar100_files(per_file: int = 20) -> dict[str, bytes]:
    return {
        'train.bin': cifar_rows(per_file, (20, 100), 0).tobytes(),
        'test.bin': cifar_rows(per_file // 2, (20, 100), 1).tobytes(),
        'coarse_label_names.txt': '\n'.join(f'coarse {i}' for i in range(20)).encode(),
        'fine_label_names.txt': '\n'.join(f'fine {i}' for i in range(100)).encode(),
    }


def prepare_all(folder: Path) -> str:
    """Prepares every dataset from its small archive; returns the data_dir."""
    from lcn_jax.data.prepare import prepare

    data_dir = str(folder / 'data')
    imagenet = write_folder(folder / 'imagenet', imagenet_files())
    prepare('digits', data_dir)
    prepare('cifar10', data_dir, str(write_folder(folder / 'cifar10', cifar10_files())))
    prepare('cifar100', data_dir, str(write_folder(folder / 'cifar100', cifar100_files())))
    zip_file = write_zip(folder / 'tiny.zip', tiny_imagenet_files())
    prepare('tiny_imagenet', data_dir, str(zip_file))
    prepare('imagenet2012', data_dir, str(imagenet), str(imagenet / 'labels.txt'))
    return data_dir
