"""Files of datasets that are damaged or missing: one line that names them, and no data."""

import re

import pytest
import tiny_archives
from tiny_archives import WNIDS, changed, check_refused, cut, under, write, write_folder

pytestmark = pytest.mark.usefixtures('no_tensorflow')

TINY_IMAGE = f'train/{WNIDS[0]}/images/{WNIDS[0]}_0.JPEG'
ANNOTATIONS = 'val/val_annotations.txt'


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({TINY_IMAGE: cut}, f'{WNIDS[0]}_0.JPEG is not a whole image'),
        ({TINY_IMAGE: b'text'}, f'{WNIDS[0]}_0.JPEG is not a whole image'),
        (
            {f'train/{WNIDS[2]}/images/{WNIDS[2]}_{i}.JPEG': None for i in range(4)},
            f'no training images of class {WNIDS[2]}',
        ),
        ({'wnids.txt': None}, 'must be one wnids.txt'),
        ({'wnids.txt': b''}, 'lists no classes'),
        ({'wnids.txt': '\n'.join([*WNIDS, WNIDS[0]]).encode()}, 'lists a class twice'),
        ({ANNOTATIONS: None}, f'there is no tiny-imagenet-200/{ANNOTATIONS}'),
        ({ANNOTATIONS: b''}, 'val_annotations.txt lists no images'),
        (
            {'val/images/val_2.JPEG': None},
            'there is no tiny-imagenet-200/val/images/val_2.JPEG',
        ),
        (
            {ANNOTATIONS: lambda lines: lines + b'\nval_3.JPEG\tn99999999\t0\t0\t63\t63'},
            'val_annotations.txt has a line without a class of wnids.txt: ',
        ),
    ],
)
def test_damaged_tiny_imagenet(tmp_path, changes, message):
    files = changed(tiny_archives.tiny_imagenet_files(), changes)
    source = write(tmp_path / 'tiny.zip', under('tiny-imagenet-200', files), 'zip')
    check_refused(tmp_path, 'tiny_imagenet', source, re.escape(message))


def flip_a_bit(content):
    image = tiny_archives.tiny_imagenet_files()[TINY_IMAGE]
    at = content.index(image) + len(image) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (cut, 'may be corrupt'),
        (flip_a_bit, f'{WNIDS[0]}_0.JPEG'),
        (lambda content: b'text', 'may be corrupt'),
    ],
)
def test_damaged_zip(tmp_path, damage, message):
    source = write(tmp_path / 'tiny.zip', tiny_archives.tiny_imagenet_files(), 'zip')
    source.write_bytes(damage(source.read_bytes()))
    check_refused(tmp_path, 'tiny_imagenet', source, message)


TRAIN, VALIDATION = 'ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'
JPEG = tiny_archives.encode(tiny_archives.pictures(1, (60, 80))[0], 'JPEG')


def train_tar(wnid, images):
    return tiny_archives.tar({f'{wnid}.tar': tiny_archives.tar(images)})


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({TRAIN: cut}, 'ILSVRC2012_img_train.tar cannot be read'),
        (
            {VALIDATION: lambda tar: tar[: tar.index(b'ILSVRC2012_val_00000001.JPEG')]},
            'ILSVRC2012_img_val.tar cannot be read',
        ),
        (  # the first class' tar begins after a header
            {TRAIN: lambda tar: tiny_archives.tar({f'{WNIDS[0]}.tar': cut(tar[512:], 0.01)})},
            f'{WNIDS[0]}.tar cannot be read',
        ),
        (
            {TRAIN: train_tar(WNIDS[0], {f'{WNIDS[0]}_0.JPEG': cut(JPEG)})},
            f'{WNIDS[0]}_0.JPEG is not a whole image',
        ),
        (
            {TRAIN: train_tar('n99999999', {'n99999999_0.JPEG': b''})},
            "'n99999999' is not one of the 1000 classes",
        ),
        ({TRAIN: tiny_archives.tar({})}, 'no images'),
        ({'labels.txt': '\n'.join(WNIDS[:2]).encode()}, '3 validation images and'),
        (
            {'labels.txt': lambda labels: labels.replace(WNIDS[1].encode(), b'n99999999')},
            "'n99999999' is not one of the 1000 classes",
        ),
        ({VALIDATION: None}, 'there is no'),
    ],
)
def test_damaged_imagenet(tmp_path, changes, message):
    source = write_folder(tmp_path / 'in', changed(tiny_archives.imagenet_files(), changes))
    labels = str(source / 'labels.txt')
    check_refused(tmp_path, 'imagenet2012', source, re.escape(message), labels)


TABLE, DATA = 'LOC_val_solution.csv', 'ILSVRC/Data/CLS-LOC'
KAGGLE = tiny_archives.imagenet_kaggle_files()
IMAGE = f'{DATA}/train/{WNIDS[0]}/{WNIDS[0]}_0.JPEG'
FIRST_ROW = KAGGLE[TABLE].splitlines()[1]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({IMAGE: cut}, f'{WNIDS[0]}_0.JPEG is not a whole image'),
        (
            {f'{DATA}/val/ILSVRC2012_val_00000002.JPEG': cut(KAGGLE[IMAGE])},
            'val_00000002.JPEG is not a whole image',
        ),
        (
            {f'{DATA}/train/n99999999/0.JPEG': KAGGLE[IMAGE]},
            "'n99999999' is not one of the 1000 classes",
        ),
        (
            {f'{DATA}/train/{WNIDS[1]}/{WNIDS[0]}_0.JPEG': KAGGLE[IMAGE]},
            f'there is another image called {WNIDS[0]}_0.JPEG',
        ),
        (
            {TABLE: lambda table: table.replace(FIRST_ROW, b'')},
            f'{TABLE} has no label of {DATA}/val/ILSVRC2012',
        ),
        (
            {TABLE: lambda table: table.replace(FIRST_ROW, FIRST_ROW[:24])},
            f'{TABLE} has no label of {DATA}/val/',
        ),
        (
            {TABLE: lambda table: table.replace(WNIDS[1].encode(), b'n99999999')},
            "'n99999999' is not one of the 1000 classes",
        ),
        ({TABLE: lambda table: table + b'\n"'}, f'{TABLE} is not a list or a table of labels'),
        ({TABLE: None}, '3 validation images and'),
        (
            {name: None for name in KAGGLE if name.startswith(f'{DATA}/val')},
            f'the validation images must be in {DATA}/val',
        ),
        (
            {f'{DATA}/val/{WNIDS[0]}/0.JPEG': KAGGLE[IMAGE]},
            'all of them in folders of classes or none',
        ),
        ({f'{DATA}/train/0.JPEG': KAGGLE[IMAGE]}, 'train/0.JPEG is not in the folder of a class'),
        (
            {f'{DATA}/train/{WNIDS[0]}/images/0.JPEG': KAGGLE[IMAGE]},
            'images/0.JPEG is not in the folder of a class',
        ),
        (dict.fromkeys(KAGGLE) | tiny_archives.tiny_imagenet_files(), 'is not ImageNet'),
        (under('copy', KAGGLE), 'is not ImageNet'),
    ],
)
def test_damaged_imagenet_folders(tmp_path, changes, message):
    source = write_folder(tmp_path / 'in', changed(KAGGLE, changes))
    check_refused(tmp_path, 'imagenet2012', source, re.escape(message))


def test_labels_are_refused_if_folders_give_them(tmp_path):
    source = write_folder(tmp_path / 'in', tiny_archives.imagenet_folders())
    (tmp_path / 'labels.txt').write_text('\n'.join(WNIDS))
    labels = str(tmp_path / 'labels.txt')
    check_refused(tmp_path, 'imagenet2012', source, 'leave out --val_labels', labels)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'data_batch_3.bin': cut}, 'data_batch_3.bin is truncated'),
        ({'test_batch.bin': b''}, 'test_batch.bin is truncated'),
        ({'data_batch_2.bin': None}, 'there is no data_batch_2.bin'),
        (
            {'data_batch_4.bin': lambda rows: b'\x0a' + rows[1:]},
            'data_batch_4.bin is corrupt: there is no label 10',
        ),
    ],
)
def test_damaged_cifar10(tmp_path, changes, message):
    source = write_folder(tmp_path / 'in', changed(tiny_archives.cifar10_files(), changes))
    check_refused(tmp_path, 'cifar10', source, re.escape(message))


def test_truncated_archive_of_cifar10(tmp_path):
    archive = write(tmp_path / 'cifar.tar.gz', tiny_archives.cifar10_files(), 'tar.gz')
    archive.write_bytes(cut(archive.read_bytes()))
    check_refused(tmp_path, 'cifar10', archive, r'cifar\.tar\.gz cannot be read')
