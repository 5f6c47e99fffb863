"""Datasets made from their files, in every layout, and by the binary."""

import functools
import os
import re

import numpy as np
import own_builders
import pytest
import tensorflow_datasets as tfds
import tiny_archives
import tiny_runs
from tiny_archives import WNIDS, under, write, write_folder

from lcn_jax.data import sources
from lcn_jax.data.builders import encoded
from lcn_jax.data.prepare import prepare
from lcn_jax.errors import UsageError

pytestmark = pytest.mark.usefixtures('no_tensorflow')


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


def test_given_labels_override_those_of_kaggle(tmp_path):
    source = write_folder(tmp_path / 'in', tiny_archives.imagenet_kaggle_files())
    (tmp_path / 'labels.txt').write_text('\n'.join(reversed(WNIDS)))
    data_dir = str(tmp_path / 'data')
    prepare('imagenet2012', data_dir, str(source), str(tmp_path / 'labels.txt'))
    check_validation_labels(data_dir, WNIDS[::-1])


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
