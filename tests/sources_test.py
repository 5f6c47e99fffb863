import dataclasses
import json
import os
import re
from pathlib import Path

import jax
import numpy as np
import own_builders
import pytest
import tensorflow_datasets as tfds
import tiny_archives
from etils.epath.testing import mock_epath
from ml_collections import ConfigDict
from tiny_archives import config_for

from lcn_jax.data import sources, specs
from lcn_jax.data.prepare import prepare
from lcn_jax.data.sources import Source
from lcn_jax.data.specs import Spec
from lcn_jax.errors import UsageError
from lcn_jax.training import inputs
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.train import train_and_evaluate

KEY = jax.random.key(0)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp('data'))
    own_builders.prepare(own_builders.Stripes, folder)
    own_builders.prepare(own_builders.Postcards, folder)
    return folder


STRIPES = Spec(3, (12, 10, 1), 'validation', image='picture', label='kind')


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('stripes', STRIPES),
        ('own_builders:Stripes', STRIPES),
        ('stripes:1.0.0', STRIPES),
        ('postcards', Spec(2, (None, None, 3), 'test')),
        ('own_builders:Postcards', Spec(2, (None, None, 3), 'test')),
    ],
)
def test_prepared_datasets_are_described_by_their_info(data_dir, name, expected):
    assert Source(name, data_dir).spec == expected


def test_user_images_are_read_as_they_were_written(data_dir):
    for split, number in (('train', 24), ('validation', 9)):
        read = Source('own_builders:Stripes', data_dir).split(split).read()
        found = {image.tobytes(): label for image, label in zip(read.images, read.labels)}
        expected = {image.tobytes(): i % 3 for i, image in enumerate(own_builders.stripes(number))}
        assert read.images.shape == (number, 12, 10, 1)
        assert found == expected


@pytest.mark.parametrize(
    ('name', 'classes', 'channels', 'steps', 'evaluated'),
    [('stripes', 3, 1, 3, 9), ('postcards', 2, 3, 2, 5)],
)
@pytest.mark.slow
def test_user_data_trains_from_a_config_alone(
    data_dir, tmp_path, name, classes, channels, steps, evaluated
):
    config = config_for(name, data_dir)
    config.epochs = 1
    last = train_and_evaluate(config, str(tmp_path))
    assert last['step'] == steps
    hits = last['test_top1'] * evaluated
    assert hits == pytest.approx(round(hits), abs=1e-4)
    params = Experiment.create(config).shapes.params
    assert params['logits']['kernel'].shape[1] == classes
    assert params['stem_conv']['kernel'].shape[2] == channels


def test_user_data_without_a_split_to_evaluate_on(tmp_path):
    own_builders.prepare(own_builders.Odd, str(tmp_path))
    config = config_for('odd', str(tmp_path))
    with pytest.raises(
        UsageError, match=r'odd has no split test or validation.*config\.validation'
    ):
        inputs.make(config, KEY)
    config.validation = 1
    assert inputs.make(config, KEY).examples == 3


def test_streamed_data_needs_given_statistics(data_dir):
    config = config_for('postcards', data_dir)
    config.mean, config.std = (), ()
    with pytest.raises(UsageError, match=r'set config\.mean and config\.std: those of postcards'):
        inputs.make(config, KEY)


@pytest.mark.parametrize(
    ('features', 'message'),
    [
        ({'label': tfds.features.Scalar(np.int64)}, 'not a dataset of images with a class each'),
        ({'image': tfds.features.Tensor(shape=(8, 8, 3), dtype=np.uint8)}, 'not a dataset of'),
        ({'image': tfds.features.Image(shape=(8, 8, 4))}, 'uint8 with 4 channels; they must be'),
        ({'image': tfds.features.Image(shape=(8, 8, 1), dtype=np.uint16)}, 'uint16 with 1 channel'),
    ],
)
def test_data_that_is_not_image_classification_is_refused(tmp_path, features, message):
    builder = own_builders.Odd(data_dir=str(tmp_path), **features)
    with pytest.raises(UsageError, match=re.escape(message)):
        specs.describe(builder)


@pytest.mark.parametrize(
    ('example', 'message'),
    [
        ({'image': b'not an image'}, 'is not a whole image'),
        ({'image': tiny_archives.encode(np.zeros((9, 8, 3), np.uint8))}, 'has shape (9, 8, 3)'),
        ({'label': -1}, 'has label -1, which is none of the 2 classes'),
    ],
)
def test_a_bad_example_is_named(tmp_path, example, message):
    folder = own_builders.prepare(own_builders.Odd, str(tmp_path), example=example)
    split = Source('odd', str(tmp_path)).split('train')
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        split.read()
    (named,) = re.findall(r'image (\d) of train in (\S+)', str(error.value))
    assert named[1].rstrip(',') == folder
    others = np.array([i for i in range(4) if i != int(named[0])])
    assert len(split.take(others).read()) == 3
    one_class = dataclasses.replace(split, spec=dataclasses.replace(split.spec, num_classes=1))
    with pytest.raises(UsageError, match='label 1, which is none of the 1 classes'):
        one_class.take(others).read()
    assert '\n' not in str(error.value)


def test_a_corrupt_record_is_named(tmp_path):
    folder = Path(own_builders.prepare(own_builders.Stripes, str(tmp_path)))
    (file,) = folder.glob('*train.array_record*')
    content = bytearray(file.read_bytes())
    content[content.index(b'number 7') + 3] ^= 1
    file.write_bytes(content)
    split = Source('own_builders:Stripes', str(tmp_path)).split('train')
    with pytest.raises(UsageError, match=f'of train in {folder} cannot be read') as error:
        split.read()
    corrupt = int(re.search(r'image (\d+) of', str(error.value)).group(1))
    others = [i for i in range(24) if i != corrupt]
    notes = [split._records[i]['note'] for i in others]
    assert sorted(notes) == sorted(f'number {i}'.encode() for i in range(24) if i != 7)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('unheard', 'unheard is none of cifar10, cifar100, digits, .*--dataset=unheard'),
        ('fashion_mnist', 'fashion_mnist is none of .* has not been prepared in'),
        ('stripes:9.9.9', 'has not been prepared in'),
        ('not a name', 'has not been prepared in'),
        ('nowhere:Builder', "unknown dataset 'nowhere:Builder'"),
        ('own_builders:Missing', "unknown dataset 'own_builders:Missing'"),
        ('own_builders:stripes', 'own_builders:stripes is not a class'),
        ('own_builders:Odd', 'own_builders:Odd is none of .* has not been prepared in'),
    ],
)
def test_an_unprepared_dataset_is_refused_in_one_line(data_dir, name, message):
    with pytest.raises(UsageError, match=message) as error:
        _ = Source(name, data_dir).spec
    assert '\n' not in str(error.value)


def as_tfrecord(folder: str) -> None:
    """Makes the metadata what tfds writes with tensorflow; the records themselves are not read."""
    info = Path(folder, 'dataset_info.json')
    content = json.loads(info.read_text())
    assert content['fileFormat'] == 'array_record'
    info.write_text(json.dumps({**content, 'fileFormat': 'tfrecord'}))
    for file in Path(folder).glob('*.array_record*'):
        file.rename(str(file).replace('array_record', 'tfrecord'))


@pytest.mark.parametrize('name', ['cifar10', 'own_builders:Stripes', 'stripes'])
def test_files_of_tensorflow_are_refused_in_one_line(tmp_path, name):
    if name == 'cifar10':
        source = tiny_archives.write_folder(tmp_path / 'in', tiny_archives.cifar10_files())
        prepare(name, str(tmp_path), str(source))
    else:
        own_builders.prepare(own_builders.Stripes, str(tmp_path))
    as_tfrecord(os.fspath(Source(name, str(tmp_path)).builder.data_path))
    with pytest.raises(UsageError, match=r'holds tfrecord files.*another --data_dir') as error:
        Source(name, str(tmp_path)).split('train')
    assert '\n' not in str(error.value)


def test_buckets(data_dir):
    """A folder stands in for a bucket: all but the records is read through epath."""
    folder = Source('stripes', data_dir).builder.data_path
    statistics = {'mean': [0.25], 'std': [0.5]}
    kept = folder / 'pixel_statistics.json'
    kept.write_text(json.dumps(statistics))

    def there(function, path, *args, **kwargs):
        return function(os.fspath(path).replace('gs://bucket', data_dir), *args, **kwargs)

    with mock_epath(**dict.fromkeys(('exists', 'isdir', 'open', 'listdir', 'glob'), there)):
        source = Source('stripes', 'gs://bucket')
        assert source.spec == STRIPES
        assert len(source.split('train')) == 24
        assert source.split('train').folder == 'gs://bucket/stripes/1.0.0'
        assert np.allclose(source.pixel_statistics(), [[0.25], [0.5]])
    kept.unlink()


def test_a_constant_channel_is_refused():
    config = ConfigDict({'mean': (0.5, 0.5), 'std': (0.2, 0.0)})
    with pytest.raises(UsageError, match='deviation of a channel is not positive'):
        sources.normalisation(config, None)


def test_unreadable_places_are_refused(tmp_path):
    for url in ('s3://bucket/data', 'memory://data'):
        with pytest.raises(UsageError, match=f'not from {url}'):
            Source('cifar10', url).split('train')

    (tmp_path / 'file').touch()
    with pytest.raises(UsageError, match=f'cannot write {tmp_path}/file/data'):
        Source('digits', str(tmp_path / 'file' / 'data')).split('train')

    def not_installed(function, path):
        raise ImportError('Please install gcsfs')

    with (
        mock_epath(exists=not_installed),
        pytest.raises(UsageError, match=r'cannot open gs://bucket: .*Please install gcsfs'),
    ):
        Source('cifar10', 'gs://bucket').split('train')
