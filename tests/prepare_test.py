import functools
import os
import re
import sys

import numpy as np
import own_builders
import pytest
import tensorflow_datasets as tfds
import tiny_archives
import tiny_runs
from tiny_archives import WNIDS, changed, check_refused, cut, under, write, write_folder

from lcn_jax.data import sources
from lcn_jax.data.builders import encoded
from lcn_jax.data.prepare import prepare
from lcn_jax.errors import UsageError


@pytest.fixture(autouse=True)
def no_tensorflow():
    yield
    assert 'tensorflow' not in sys.modules


def examples(name, data_dir, split, **decoders):
    return list(sources.Source(name, data_dir).builder.as_data_source(split, decoders=decoders))


def names_of_classes(name, data_dir):
    return sources.Source(name, data_dir).builder.info.features['label'].names


def image_of(row):
    """The pixels at the end of a row of CIFAR."""
    return row[-3072:].reshape(3, 32, 32).transpose(1, 2, 0)


@pytest.mark.parametrize('form', ['zip', 'folder'])
def test_tiny_imagenet(tmp_path, form):
    source = write(tmp_path / 'in', tiny_archives.tiny_imagenet_files(), form)
    data_dir = str(tmp_path / 'data')
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
    assert names_of_classes('tiny_imagenet', data_dir) == list(WNIDS)


def test_cifar10_has_the_rows_of_its_files(tmp_path):
    files = under('in/cifar-10-batches-bin', tiny_archives.cifar10_files())
    data_dir = str(tmp_path / 'data')
    source = write_folder(tmp_path, files) / 'in'
    assert prepare('cifar10', data_dir, str(source)) == {'train': 20, 'test': 4}
    expected = tiny_archives.cifar_rows(4, (10,), seed=5)
    for example in examples('cifar10', data_dir, 'test'):
        row = expected[int(example['id'].decode().removeprefix('test_'))]
        assert example['label'] == row[0]
        np.testing.assert_array_equal(example['image'], image_of(row))


def test_cifar100_from_an_archive_has_fine_labels(tmp_path):
    files = under('cifar-100-binary', tiny_archives.cifar100_files())
    archive = write(tmp_path / 'cifar-100-binary.tar.gz', files, 'tar.gz')
    data_dir = str(tmp_path / 'data')
    assert prepare('cifar100', data_dir, str(archive)) == {'train': 20, 'test': 10}
    expected = tiny_archives.cifar_rows(20, (20, 100), seed=0)
    for example in examples('cifar100', data_dir, 'train'):
        row = expected[int(example['id'].decode().removeprefix('train_'))]
        assert (example['coarse_label'], example['label']) == (row[0], row[1])
        np.testing.assert_array_equal(example['image'], image_of(row))


def check_validation_labels(data_dir, wnids):
    """The wnid of validation image number n is wnids[n - 1]."""
    names = names_of_classes('imagenet2012', data_dir)
    for example in examples('imagenet2012', data_dir, 'validation'):
        number = int(re.search(r'_(\d{8})\.', example['file_name'].decode()).group(1))
        assert names[example['label']] == wnids[number - 1]


def test_imagenet_labels_and_colours(tmp_path):
    image = tiny_archives.pictures(1, (50, 70))[0]
    odd = {
        'n01440764_7.JPEG': tiny_archives.encode(image, 'JPEG', 'L'),
        'n01440764_8.JPEG': tiny_archives.encode(image, 'JPEG', 'CMYK'),
    }
    train = tiny_archives.tar({f'{WNIDS[1]}.tar': tiny_archives.tar(odd)})
    files = tiny_archives.imagenet_files() | {'ILSVRC2012_img_train.tar': train}
    folder = write_folder(tmp_path / 'in', files)
    data_dir = str(tmp_path / 'data')
    counts = prepare('imagenet2012', data_dir, str(folder), str(folder / 'labels.txt'))
    assert counts == {'train': 2, 'validation': 3}
    names = names_of_classes('imagenet2012', data_dir)
    assert len(names) == 1000
    for example in examples('imagenet2012', data_dir, 'train'):
        assert names[example['label']] == WNIDS[1]
        assert example['image'].shape == (50, 70, 3)
    check_validation_labels(data_dir, WNIDS)


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
    return {
        split: examples(name, data_dir, split, image=tfds.decode.SkipDecoding())
        for split in sources.Source(name, data_dir).builder.info.splits
    }


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    """name -> `contents` of a dataset prepared from the first of its layouts."""
    folder = tmp_path_factory.mktemp('official')

    @functools.cache
    def prepared(name):
        source = write_folder(folder / name, LAYOUTS[name][0]())
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
        files = change(under('parent', layout()))
    source = write(tmp_path / 'in', files, form)
    data_dir = str(tmp_path / 'data')
    prepare(name, data_dir, str(source), labels)
    assert contents(name, data_dir) == official(name)


def test_digits_need_no_source_and_are_prepared_once(tmp_path):
    assert prepare('digits', str(tmp_path)) == {'train': 1200, 'test': 597}
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.array_record*')}
    assert len(written) == 2
    assert prepare('digits', str(tmp_path)) == {'train': 1200, 'test': 597}
    assert written == {path: path.stat().st_mtime_ns for path in written}


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


def test_given_labels_override_those_of_kaggle(tmp_path):
    source = write_folder(tmp_path / 'in', KAGGLE)
    (tmp_path / 'labels.txt').write_text('\n'.join(reversed(WNIDS)))
    data_dir = str(tmp_path / 'data')
    prepare('imagenet2012', data_dir, str(source), str(tmp_path / 'labels.txt'))
    check_validation_labels(data_dir, WNIDS[::-1])


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


def test_a_dataset_that_tensorflow_wrote_is_left_alone(tmp_path):
    prepare('digits', str(tmp_path))
    info = next(tmp_path.rglob('dataset_info.json'))
    info.write_text(info.read_text().replace('array_record', 'tfrecord'))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    with pytest.raises(UsageError, match=r'digits/1\.0\.0 holds tfrecord files') as error:
        prepare('digits', str(tmp_path))
    assert 'another --data_dir' in str(error.value)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}


def test_an_empty_folder_is_not_a_dataset(tmp_path):
    (tmp_path / 'digits' / '1.0.0').mkdir(parents=True)
    with pytest.raises(UsageError, match=r'digits/1\.0\.0 is not a whole dataset: delete it'):
        prepare('digits', str(tmp_path))


def test_a_data_dir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UsageError, match=r'cannot write \S+/file/data'):
        prepare('digits', str(tmp_path / 'file' / 'data'))


FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # no file can be longer
"""


def prepare_tiny_imagenet(data_dir, source, before):
    """What became of a process of the binary."""
    options = '--dataset=tiny_imagenet', f'--data_dir={data_dir}', f'--source={source}'
    return tiny_runs.call('prepare', *options, before=before)


def test_a_full_disk_is_one_line_and_leaves_no_files(tmp_path):
    source = write_folder(tmp_path / 'in', tiny_archives.tiny_imagenet_files())
    assert sum(path.stat().st_size for path in source.rglob('*.JPEG')) > 30_000
    data_dir = tmp_path / 'data'
    done = prepare_tiny_imagenet(data_dir, source, FULL)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f'error: cannot write {data_dir}/tiny_imagenet/1.0.0 (')
    assert 'File too large' in last
    assert [path for path in data_dir.rglob('*') if path.is_file()] == []


class Stripes(own_builders.Own, skip_registration=True):
    """A builder of the user's own: `source` holds how many images there are."""

    VERSION = tfds.core.Version('2.0.0')
    name = 'stripes'
    FEATURES = {
        'image': tfds.features.Image(shape=(6, 5, 1)),
        'label': tfds.features.ClassLabel(num_classes=5),
    }

    def __init__(self, *, source=None, **kwargs):
        super().__init__(**kwargs)
        self.SPLITS = {'train': source and int(source.read_text())}

    def _generate_examples(self, number):
        for i in range(number):
            image = np.zeros((6, 5), np.uint8)
            image[:, i % 5] = 255
            yield i, {'image': encoded.png(image), 'label': i % 5}


def test_a_builder_of_the_user(tmp_path):
    (tmp_path / 'number').write_text('7')
    name, data_dir = f'{__name__}:Stripes', str(tmp_path / 'data')
    assert prepare(name, data_dir, str(tmp_path / 'number')) == {'train': 7}
    source = sources.Source(name, data_dir)
    assert (source.spec.num_classes, source.spec.image_shape) == (5, (6, 5, 1))
    images = source.split('train').read()
    np.testing.assert_array_equal(images.images.argmax(2)[:, 0, 0], images.labels)


KILLED = """
import os
from lcn_jax.data.builders import encoded

whole, seen = encoded.stored, []

def stored(*arguments):
    seen.append(arguments)
    return whole(*arguments) if len(seen) < 14 else os._exit(9)  # all of train is written

encoded.stored = stored
"""


def test_a_killed_attempt_is_not_a_dataset(tmp_path):
    source = write(tmp_path / 'tiny.zip', tiny_archives.tiny_imagenet_files(), 'zip')
    data_dir = tmp_path / 'data'
    assert prepare_tiny_imagenet(data_dir, source, KILLED).returncode == 9
    assert list(data_dir.rglob('*train.array_record*'))
    with pytest.raises(UsageError, match='has not been prepared'):
        sources.Source('tiny_imagenet', str(data_dir)).split('train')
    counts = prepare('tiny_imagenet', str(data_dir), str(source))
    assert counts == {'train': 12, 'validation': 3}


TERMINATED = """
import os, signal
from lcn_jax.data.builders import encoded
encoded.stored = lambda *arguments: os.kill(os.getpid(), signal.SIGTERM)
"""


def test_sigterm_leaves_nothing_behind(tmp_path):
    source = write(tmp_path / 'tiny.zip', tiny_archives.tiny_imagenet_files(), 'zip')
    done = prepare_tiny_imagenet(tmp_path / 'data', source, TERMINATED)
    assert done.returncode == 143, done.stderr
    assert 'Traceback' not in done.stderr
    assert [path for path in (tmp_path / 'data').rglob('*') if '1.0.0' in path.name] == []


def test_binary(tmp_path):
    image = tiny_archives.encode(tiny_archives.pictures(1, (8, 8))[0])
    files = {f'{label}/1.png': image for label in ('robin', 'wren', 'owl')}
    source = write(tmp_path / 'birds.zip', files, 'zip')
    for name, code in ((source.name, 0), ('nowhere.zip', 1)):
        options = [f'--data_dir={tmp_path}/data', f'--source={tmp_path}/{name}']
        run = tiny_runs.call('prepare', '--dataset=birds', *options)
        assert run.returncode == code
        if code:
            assert run.stderr == f'error: there is no {tmp_path}/nowhere.zip.\n'
        else:
            counts, hint = run.stdout.splitlines()
            assert counts == f'birds is in {tmp_path}/data: 3 train'
            assert 'config.validation' in hint
