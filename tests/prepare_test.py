import functools
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny_archives
import tiny_runs
from tiny_archives import WNIDS

from lcn_jax.data import sources
from lcn_jax.data.builders import encoded
from lcn_jax.data.prepare import prepare
from lcn_jax.errors import UsageError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_tensorflow():
    yield
    assert 'tensorflow' not in sys.modules


def examples(name, data_dir, split):
    return list(sources.Source(name, data_dir).builder.as_data_source(split))


def test_tiny_imagenet_from_zip_and_folder(tmp_path):
    files = tiny_archives.tiny_imagenet_files()
    archive = tiny_archives.write_zip(tmp_path / 'tiny.zip', files)
    folder = tiny_archives.write_folder(tmp_path / 'folder', files)
    for source in (archive, folder):
        data_dir = str(tmp_path / f'from_{source.name}')
        assert prepare('tiny_imagenet', data_dir, str(source)) == {'train': 12, 'validation': 3}
        images = tiny_archives.pictures(15, (64, 64))
        train = {e['file_name'].decode(): e for e in examples('tiny_imagenet', data_dir, 'train')}
        for label, wnid in enumerate(WNIDS):
            for i in range(4):
                example = train[f'{wnid}_{i}.JPEG']
                assert example['label'] == label
                assert example['image'].shape == (64, 64, 3)
                if i == 1:
                    assert (np.ptp(example['image'], axis=-1) == 0).all()
                else:
                    np.testing.assert_array_equal(example['image'], images[4 * label + i])
        for example in examples('tiny_imagenet', data_dir, 'validation'):
            assert example['file_name'].decode() == f'val_{example["label"]}.JPEG'
    assert sources.Source('tiny_imagenet', data_dir).builder.info.features['label'].names == list(
        WNIDS
    )


def test_cifar10_has_the_rows_of_its_files(tmp_path):
    files = tiny_archives.cifar10_files()
    source = tiny_archives.write_folder(tmp_path / 'in' / 'cifar-10-batches-bin', files).parent
    data_dir = str(tmp_path / 'data')
    assert prepare('cifar10', data_dir, str(source)) == {'train': 20, 'test': 4}
    expected = tiny_archives.cifar_rows(4, (10,), seed=5)
    for example in examples('cifar10', data_dir, 'test'):
        row = expected[int(example['id'].decode().removeprefix('test_'))]
        assert example['label'] == row[0]
        np.testing.assert_array_equal(
            example['image'], row[1:].reshape(3, 32, 32).transpose(1, 2, 0)
        )


def test_cifar100_from_an_archive_has_fine_labels(tmp_path):
    folder = tiny_archives.write_folder(
        tmp_path / 'cifar-100-binary', tiny_archives.cifar100_files()
    )
    archive = tmp_path / 'cifar-100-binary.tar.gz'
    with tarfile.open(archive, 'w:gz') as tar:
        tar.add(folder, folder.name)
    data_dir = str(tmp_path / 'data')
    assert prepare('cifar100', data_dir, str(archive)) == {'train': 20, 'test': 10}
    expected = tiny_archives.cifar_rows(20, (20, 100), seed=0)
    for example in examples('cifar100', data_dir, 'train'):
        row = expected[int(example['id'].decode().removeprefix('train_'))]
        assert (example['coarse_label'], example['label']) == (row[0], row[1])
        np.testing.assert_array_equal(
            example['image'], row[2:].reshape(3, 32, 32).transpose(1, 2, 0)
        )


def test_imagenet_labels_and_colours(tmp_path):
    files = tiny_archives.imagenet_files()
    grey, cmyk = (
        tiny_archives.encode(tiny_archives.pictures(1, (50, 70))[0], 'JPEG', mode)
        for mode in ('L', 'CMYK')
    )
    odd = {'n01440764_7.JPEG': grey, 'n01440764_8.JPEG': cmyk}
    train = {f'{wnid}.tar': tiny_archives.tar(odd) for wnid in WNIDS[1:2]}
    files['ILSVRC2012_img_train.tar'] = tiny_archives.tar(train)
    folder = tiny_archives.write_folder(tmp_path / 'in', files)
    data_dir = str(tmp_path / 'data')
    counts = prepare('imagenet2012', data_dir, str(folder), str(folder / 'labels.txt'))
    assert counts == {'train': 2, 'validation': 3}
    names = sources.Source('imagenet2012', data_dir).builder.info.features['label'].names
    assert len(names) == 1000
    for example in examples('imagenet2012', data_dir, 'train'):
        assert names[example['label']] == WNIDS[1]
        assert example['image'].shape == (50, 70, 3)
    for example in examples('imagenet2012', data_dir, 'validation'):
        number = int(re.search(r'_(\d{8})\.', example['file_name'].decode()).group(1))
        assert names[example['label']] == WNIDS[number - 1]


LAYOUTS = {
    'cifar10': (tiny_archives.cifar10_files, tiny_archives.cifar10_python_files),
    'cifar100': (tiny_archives.cifar100_files, tiny_archives.cifar100_python_files),
    'tiny_imagenet': (tiny_archives.tiny_imagenet_files,),
    'imagenet2012': (
        tiny_archives.imagenet_files,
        tiny_archives.imagenet_kaggle_files,
        tiny_archives.imagenet_folders,
    ),
}


def contents(name, data_dir):
    """Split -> the stored examples, images encoded, in their order."""
    prepared = sources.Source(name, data_dir).builder
    skip = {'image': tfds.decode.SkipDecoding()}
    return {
        split: list(prepared.as_data_source(split, decoders=skip)) for split in prepared.info.splits
    }


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    """name -> `contents` of a dataset prepared from the first of its layouts."""
    folder = tmp_path_factory.mktemp('official')

    @functools.cache
    def prepared(name):
        source = tiny_archives.write_folder(folder / name, LAYOUTS[name][0]())
        labels = source / 'labels.txt' if name == 'imagenet2012' else None
        prepare(name, str(folder / 'data'), str(source), labels and str(labels))
        return contents(name, str(folder / 'data'))

    return prepared


@pytest.mark.parametrize('change', [dict, tiny_archives.littered])
@pytest.mark.parametrize(
    ('name', 'layout', 'form'),
    [
        (name, layout, form)
        for name in LAYOUTS
        for layout in LAYOUTS[name]
        for form in ('folder', 'zip', 'tar.gz')
        if form == 'folder' or layout is not tiny_archives.imagenet_files
    ],
)
@pytest.mark.slow
def test_all_layouts_give_the_same_examples(tmp_path, official, name, layout, change, form):
    labels = None
    if layout is tiny_archives.imagenet_files:
        files = change(layout(change))
        labels = str(tmp_path / 'in' / 'labels.txt')
    else:
        files = change({f'parent/{path}': content for path, content in layout().items()})
    source = tmp_path / 'in'
    match form:
        case 'folder':
            tiny_archives.write_folder(source, files)
        case 'zip':
            tiny_archives.write_zip(source, files, '')
        case 'tar.gz':
            source.write_bytes(tiny_archives.tar(files, 'gz'))
    data_dir = str(tmp_path / 'data')
    prepare(name, data_dir, str(source), labels)
    assert contents(name, data_dir) == official(name)


def test_digits_need_no_source_and_are_prepared_once(tmp_path):
    assert prepare('digits', str(tmp_path)) == {'train': 1200, 'test': 597}
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.array_record*')}
    assert len(written) == 2
    assert prepare('digits', str(tmp_path)) == {'train': 1200, 'test': 597}
    assert written == {path: path.stat().st_mtime_ns for path in written}


def cut(content: bytes, part: float = 0.6) -> bytes:
    return content[: int(len(content) * part)]


def damaged_tiny_imagenet(folder, damage):
    files = tiny_archives.tiny_imagenet_files()
    image = f'train/{WNIDS[0]}/images/{WNIDS[0]}_0.JPEG'
    match damage:
        case 'truncated image':
            files[image] = cut(files[image])
        case 'no image':
            files[image] = b'text'
        case 'class without images':
            files = {name: content for name, content in files.items() if WNIDS[2] not in name}
        case 'no wnids':
            del files['wnids.txt']
        case 'empty wnids':
            files['wnids.txt'] = b''
        case 'class twice':
            files['wnids.txt'] += b'\n' + WNIDS[0].encode()
        case 'no annotations':
            del files['val/val_annotations.txt']
        case 'no validation images':
            files['val/val_annotations.txt'] = b''
        case 'validation image missing':
            del files['val/images/val_2.JPEG']
        case 'unknown class':
            files['val/val_annotations.txt'] += b'\nval_3.JPEG\tn99999999\t0\t0\t63\t63'
    path = tiny_archives.write_zip(folder / 'tiny.zip', files)
    content = path.read_bytes()
    match damage:
        case 'truncated zip':
            path.write_bytes(cut(content))
        case 'flipped bit':
            at = content.index(files[image]) + len(files[image]) // 2
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        case 'no zip':
            path.write_bytes(b'text')
    return path


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        ('truncated image', f'{WNIDS[0]}_0.JPEG is not a whole image'),
        ('no image', f'{WNIDS[0]}_0.JPEG is not a whole image'),
        ('class without images', f'no training images of class {WNIDS[2]}'),
        ('no wnids', 'must be one wnids.txt'),
        ('empty wnids', 'lists no classes'),
        ('class twice', 'lists a class twice'),
        ('no annotations', 'there is no tiny-imagenet-200/val/val_annotations.txt'),
        ('no validation images', 'val_annotations.txt lists no images'),
        ('validation image missing', 'there is no tiny-imagenet-200/val/images/val_2.JPEG'),
        ('unknown class', 'val_annotations.txt has a line without a class of wnids.txt: '),
        ('truncated zip', 'may be corrupt'),
        ('flipped bit', f'{WNIDS[0]}_0.JPEG'),
        ('no zip', 'may be corrupt'),
    ],
)
def test_damaged_tiny_imagenet(tmp_path, damage, message):
    check_refused(tmp_path, 'tiny_imagenet', damaged_tiny_imagenet(tmp_path, damage), message)


def damaged_imagenet(folder, damage):
    files = tiny_archives.imagenet_files()
    train, validation = 'ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'
    member = files[train][512:]  # after the header, the first class' tar
    match damage:
        case 'truncated tar':
            files[train] = cut(files[train])
        case 'end of tar missing':
            end = files[validation].index(b'ILSVRC2012_val_00000001.JPEG')
            files[validation] = files[validation][:end]
        case 'truncated class tar':
            files[train] = tiny_archives.tar({f'{WNIDS[0]}.tar': cut(member, 0.01)})
        case 'truncated image':
            image = tiny_archives.encode(tiny_archives.pictures(1, (60, 80))[0], 'JPEG')
            inner = tiny_archives.tar({f'{WNIDS[0]}_0.JPEG': cut(image)})
            files[train] = tiny_archives.tar({f'{WNIDS[0]}.tar': inner})
        case 'unknown class':
            inner = tiny_archives.tar({'n99999999_0.JPEG': b''})
            files[train] = tiny_archives.tar({'n99999999.tar': inner})
        case 'empty tar':
            files[train] = tiny_archives.tar({})
        case 'too few labels':
            files['labels.txt'] = b'\n'.join(files['labels.txt'].split()[:2])
        case 'unknown label':
            files['labels.txt'] = files['labels.txt'].replace(WNIDS[1].encode(), b'n99999999')
        case 'no validation tar':
            del files[validation]
    return tiny_archives.write_folder(folder / 'in', files)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        ('truncated tar', 'ILSVRC2012_img_train.tar cannot be read'),
        ('end of tar missing', 'ILSVRC2012_img_val.tar cannot be read'),
        ('truncated class tar', f'{WNIDS[0]}.tar cannot be read'),
        ('truncated image', f'{WNIDS[0]}_0.JPEG is not a whole image'),
        ('unknown class', "'n99999999' is not one of the 1000 classes"),
        ('empty tar', 'no images'),
        ('too few labels', '3 validation images and'),
        ('unknown label', "'n99999999' is not one of the 1000 classes"),
        ('no validation tar', 'there is no'),
    ],
)
def test_damaged_imagenet(tmp_path, damage, message):
    source = damaged_imagenet(tmp_path, damage)
    check_refused(tmp_path, 'imagenet2012', source, message, str(source / 'labels.txt'))


def damaged_imagenet_folders(damage):
    train, val = 'ILSVRC/Data/CLS-LOC/train', 'ILSVRC/Data/CLS-LOC/val'
    files = tiny_archives.imagenet_kaggle_files()
    table, image = files['LOC_val_solution.csv'], f'{train}/{WNIDS[0]}/{WNIDS[0]}_0.JPEG'
    first_row = table.splitlines()[1]
    match damage:
        case 'truncated training image':
            files[image] = cut(files[image])
        case 'truncated validation image':
            files[f'{val}/ILSVRC2012_val_00000002.JPEG'] = cut(files[image])
        case 'unknown class':
            files[f'{train}/n99999999/0.JPEG'] = files[image]
        case 'one name in two classes':
            files[f'{train}/{WNIDS[1]}/{WNIDS[0]}_0.JPEG'] = files[image]
        case 'row missing':
            files['LOC_val_solution.csv'] = table.replace(first_row, b'')
        case 'row without class':
            files['LOC_val_solution.csv'] = table.replace(first_row, first_row[:24])
        case 'unknown label':
            files['LOC_val_solution.csv'] = table.replace(WNIDS[1].encode(), b'n99999999')
        case 'open quote':
            files['LOC_val_solution.csv'] = table + b'\n"'
        case 'no table':
            del files['LOC_val_solution.csv']
        case 'no validation images':
            files = {name: files[name] for name in files if not name.startswith(val)}
        case 'validation images in two ways':
            files[f'{val}/{WNIDS[0]}/0.JPEG'] = files[image]
        case 'nothing of ImageNet':
            files = tiny_archives.tiny_imagenet_files()
        case 'twice ImageNet':
            files |= {f'copy/{name}': files[name] for name in files}
    return files


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        ('truncated training image', f'{WNIDS[0]}_0.JPEG is not a whole image'),
        ('truncated validation image', 'val_00000002.JPEG is not a whole image'),
        ('unknown class', "'n99999999' is not one of the 1000 classes"),
        ('one name in two classes', f'there is another image called {WNIDS[0]}_0.JPEG'),
        ('row missing', 'LOC_val_solution.csv has no label of ILSVRC/Data/CLS-LOC/val/ILSVRC2012'),
        ('row without class', 'LOC_val_solution.csv has no label of ILSVRC/Data/CLS-LOC/val/'),
        ('unknown label', "'n99999999' is not one of the 1000 classes"),
        ('open quote', 'LOC_val_solution.csv is not a list or a table of labels'),
        ('no table', '3 validation images and'),
        ('no validation images', 'the validation images must be in ILSVRC/Data/CLS-LOC/val'),
        ('validation images in two ways', 'all of them in folders of classes or none'),
        ('nothing of ImageNet', 'is not ImageNet'),
        ('twice ImageNet', 'is not ImageNet'),
    ],
)
def test_damaged_imagenet_folders(tmp_path, damage, message):
    source = tiny_archives.write_folder(tmp_path / 'in', damaged_imagenet_folders(damage))
    check_refused(tmp_path, 'imagenet2012', source, message)


def test_labels_for_validation_images_that_have_them(tmp_path):
    source = tiny_archives.write_folder(tmp_path / 'in', tiny_archives.imagenet_folders())
    (tmp_path / 'labels.txt').write_text('\n'.join(WNIDS))
    labels = str(tmp_path / 'labels.txt')
    check_refused(tmp_path, 'imagenet2012', source, 'leave out --val_labels', labels)


def test_given_labels_come_before_those_of_kaggle(tmp_path):
    source = tiny_archives.write_folder(tmp_path / 'in', tiny_archives.imagenet_kaggle_files())
    (tmp_path / 'labels.txt').write_text('\n'.join(reversed(WNIDS)))
    prepare('imagenet2012', str(tmp_path / 'data'), str(source), str(tmp_path / 'labels.txt'))
    names = (
        sources.Source('imagenet2012', str(tmp_path / 'data')).builder.info.features['label'].names
    )
    for example in examples('imagenet2012', str(tmp_path / 'data'), 'validation'):
        number = int(re.search(r'_(\d{8})\.', example['file_name'].decode()).group(1))
        assert names[example['label']] == WNIDS[-number]


def damaged_cifar10(folder, damage):
    files = tiny_archives.cifar10_files()
    match damage:
        case 'truncated file':
            files['data_batch_3.bin'] = cut(files['data_batch_3.bin'])
        case 'empty file':
            files['test_batch.bin'] = b''
        case 'missing file':
            del files['data_batch_2.bin']
        case 'impossible label':
            files['data_batch_4.bin'] = b'\x0a' + files['data_batch_4.bin'][1:]
    folder = tiny_archives.write_folder(folder / 'cifar-10-batches-bin', files)
    if damage != 'truncated archive':
        return folder
    archive = folder.parent / 'cifar.tar.gz'
    with tarfile.open(archive, 'w:gz') as tar:
        tar.add(folder, folder.name)
    archive.write_bytes(cut(archive.read_bytes()))
    return archive


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        ('truncated file', 'data_batch_3.bin is truncated'),
        ('empty file', 'test_batch.bin is truncated'),
        ('missing file', 'there is no data_batch_2.bin'),
        ('impossible label', 'data_batch_4.bin is corrupt: there is no label 10'),
        ('truncated archive', 'cifar.tar.gz cannot be read'),
    ],
)
def test_damaged_cifar10(tmp_path, damage, message):
    check_refused(tmp_path, 'cifar10', damaged_cifar10(tmp_path, damage), message)


def check_refused(folder, name, source, message, val_labels=None):
    """One line that names the source, and nothing that could be taken for data."""
    data_dir = folder / 'data'
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        prepare(name, str(data_dir), str(source), val_labels)
    assert str(source) in str(error.value)
    assert '\n' not in str(error.value)
    assert [path for path in data_dir.rglob('*') if path.is_file()] == []
    with pytest.raises(UsageError, match='has not been prepared'):
        sources.Source(name, str(data_dir)).split('train')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('no_such_dataset', 'data'), "unknown dataset 'no_such_dataset'"),
        (('mnist', 'data'), 'mnist is prepared by tfds, which needs tensorflow: pip install'),
        (('cifar10', 'data'), 'set --source to cifar-10-binary.tar.gz, cifar-10-python.tar.gz or'),
        (('Birds', 'data', '.'), '--dataset=Birds is neither one of digits, cifar10'),
        (('my-birds', 'data', '.'), 'small letters, digits and _'),
        (('mnist', 'data', '.'), 'not the name of a dataset of tfds'),
        (('no_such_module:Builder', 'data', '.'), "No module named 'no_such_module'"),
        (('digits', 'gs://bucket/data'), '--data_dir=gs://bucket/data is a URL'),
        (('cifar10', 'data', 's3://bucket/cifar.zip'), '--source=s3://bucket/cifar.zip is a URL'),
        (('imagenet2012', 'data', '.', 'gs://labels'), '--val_labels=gs://labels is a URL'),
        (('tiny_imagenet', 'data'), 'set --source to tiny-imagenet-200.zip'),
        (('imagenet2012', 'data', '/not/there'), 'there is no /not/there'),
        (('digits', 'data', '.'), 'leave out --source'),
        (
            ('cifar10', 'data', '.', 'labels.txt'),
            'leave out --val_labels: it is not an option of cifar10',
        ),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('lcn_jax.data.prepare._has_tensorflow', lambda: False)
    with pytest.raises(UsageError, match=re.escape(message)):
        prepare(*arguments)
    assert os.listdir() == []


def prepared_as(file_format, data_dir):
    """Digits under `data_dir`; their info says that tfds wrote another format."""
    prepare('digits', str(data_dir))
    info = next(data_dir.rglob('dataset_info.json'))
    info.write_text(info.read_text().replace('array_record', file_format))


def test_a_dataset_that_tensorflow_wrote_is_left_alone(tmp_path):
    prepared_as('tfrecord', tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    with pytest.raises(UsageError, match=r'digits/1\.0\.0 holds tfrecord files') as error:
        prepare('digits', str(tmp_path))
    assert 'another --data_dir' in str(error.value)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}


def test_what_is_not_a_dataset_is_not_taken_for_one(tmp_path):
    (tmp_path / 'digits' / '1.0.0').mkdir(parents=True)
    with pytest.raises(UsageError, match=r'digits/1\.0\.0 is not a whole dataset: delete it'):
        prepare('digits', str(tmp_path))


def test_a_data_dir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UsageError, match=r'cannot write \S+/file/data'):
        prepare('digits', str(tmp_path / 'file' / 'data'))


FULL = """
import resource, signal, sys
from lcn_jax.data.prepare import prepare
from lcn_jax.errors import UsageError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # no file can be longer
try:
    prepare('tiny_imagenet', *sys.argv[1:])
except UsageError as error:
    print(error)
"""


def test_a_full_disk_costs_one_line_and_leaves_nothing(tmp_path):
    source = tiny_archives.write_folder(tmp_path / 'in', tiny_archives.tiny_imagenet_files())
    assert sum(path.stat().st_size for path in source.rglob('*.JPEG')) > 30_000
    data_dir = tmp_path / 'data'
    run = subprocess.run(
        [sys.executable, '-c', FULL, str(data_dir), str(source)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    last = run.stdout.splitlines()[-1]
    assert last.startswith(f'cannot write {data_dir}/tiny_imagenet/1.0.0 (')
    assert 'File too large' in last
    assert [path for path in data_dir.rglob('*') if path.is_file()] == []


class Stripes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder of the user's own: `source` holds how many images there are."""

    VERSION = tfds.core.Version('2.0.0')
    name = 'stripes'

    def __init__(self, *, source=None, **kwargs):
        super().__init__(**kwargs)
        self._source = source

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    'image': tfds.features.Image(shape=(6, 5, 1)),
                    'label': tfds.features.ClassLabel(num_classes=5),
                }
            ),
            supervised_keys=('image', 'label'),
        )

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples(int(self._source.read_text()))}

    def _generate_examples(self, number):
        for i in range(number):
            image = np.zeros((6, 5), np.uint8)
            image[:, i % 5] = 255
            yield i, {'image': encoded.png(image), 'label': i % 5}


def test_a_builder_of_ones_own(tmp_path):
    (tmp_path / 'number').write_text('7')
    name, data_dir = f'{__name__}:Stripes', str(tmp_path / 'data')
    assert prepare(name, data_dir, str(tmp_path / 'number')) == {'train': 7}
    source = sources.Source(name, data_dir)
    assert (source.spec.num_classes, source.spec.image_shape) == (5, (6, 5, 1))
    images = source.split('train').read()
    np.testing.assert_array_equal(images.images.argmax(2)[:, 0, 0], images.labels)


KILLED = """
import os, sys
from lcn_jax.data.builders import encoded
from lcn_jax.data.prepare import prepare

whole, seen = encoded.stored, []

def stored(*arguments):
    seen.append(arguments)
    return whole(*arguments) if len(seen) < 14 else os._exit(9)  # all of train is written

encoded.stored = stored
prepare('tiny_imagenet', *sys.argv[1:])
"""


def test_what_was_killed_is_not_taken_for_whole(tmp_path):
    source = tiny_archives.write_zip(tmp_path / 'tiny.zip', tiny_archives.tiny_imagenet_files())
    data_dir = tmp_path / 'data'
    run = subprocess.run(
        [sys.executable, '-c', KILLED, str(data_dir), str(source)], cwd=ROOT, capture_output=True
    )
    assert run.returncode == 9
    assert list(data_dir.rglob('*train.array_record*'))
    with pytest.raises(UsageError, match='has not been prepared'):
        sources.Source('tiny_imagenet', str(data_dir)).split('train')
    counts = prepare('tiny_imagenet', str(data_dir), str(source))
    assert counts == {'train': 12, 'validation': 3}


def test_binary(tmp_path):
    image = tiny_archives.encode(tiny_archives.pictures(1, (8, 8))[0])
    files = {f'{label}/1.png': image for label in ('robin', 'wren', 'owl')}
    source = tiny_archives.write_zip(tmp_path / 'birds.zip', files)
    for name, code in ((source.name, 0), ('nowhere.zip', 1)):
        options = [f'--data_dir={tmp_path}/data', f'--source={tmp_path}/{name}']
        run = tiny_runs.call('prepare', '--dataset=birds', *options)
        assert run.returncode == code
        if code:
            assert run.stderr == f'error: there is no {tmp_path}/nowhere.zip.\n'
        else:
            counts, hint = run.stdout.splitlines()[-2:]
            assert counts == f'birds is in {tmp_path}/data: 3 train'
            assert 'config.validation' in hint
