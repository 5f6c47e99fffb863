import io
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny_archives
import tiny_runs
from PIL import Image

from lcn_jax.data import sources
from lcn_jax.data.builders import encoded
from lcn_jax.data.prepare import prepare
from lcn_jax.errors import UsageError

CLASSES = ('cat', 'ant', '9 bees')
ORDER = ('9 bees', 'ant', 'cat')  # of their names


def images(split='', per_class=2, size=(20, 30), mode='RGB', seed=0):
    """Path -> PNG file; `split` is the folder of folders of classes."""
    pixels = iter(tiny_archives.pictures(len(CLASSES) * per_class, size, seed))
    return {
        f'{split}{label}/{i}.png': tiny_archives.encode(next(pixels), mode=mode)
        for label in CLASSES
        for i in range(per_class)
    }


def stored(files, folder, name='mine'):
    """Split -> path -> (label, pixels) of a dataset prepared from files in a folder."""
    source = tiny_archives.write_folder(folder / 'in', files)
    prepare(name, str(folder / 'data'), str(source))
    return read(folder, name)


def read(folder, name='mine'):
    builder = sources.Source(name, str(folder / 'data')).builder
    return {
        split: {
            example['file_name'].decode(): (example['label'], example['image'])
            for example in builder.as_data_source(split)
        }
        for split in builder.info.splits
    }


def check(found, files):
    """These images are there, with the number of their class, and no others."""
    assert set(found) == set(files)
    for path in files:
        label, pixels = found[path]
        assert ORDER[label] == path.split('/')[-2]
        expected = Image.open(io.BytesIO(files[path]))
        if expected.mode == '1':
            expected = expected.convert('L')
        np.testing.assert_array_equal(pixels, np.asarray(expected).reshape(pixels.shape))


@pytest.mark.parametrize('evaluated', ['test', 'val', 'valid', 'Validation'])
def test_folders_of_splits(tmp_path, evaluated):
    train, other = images('train/', 3), images(f'{evaluated}/', 1, seed=1)
    found = stored(train | other, tmp_path)
    split = 'test' if evaluated == 'test' else 'validation'
    assert set(found) == {'train', split}
    check(found['train'], train)
    check(found[split], other)
    source = sources.Source('mine', str(tmp_path / 'data'))
    assert source.builder.info.features['label'].names == list(ORDER)
    assert source.spec.num_classes == 3
    assert source.spec.image_shape == (20, 30, 3)
    assert source.spec.evaluation == split


def test_three_splits(tmp_path):
    files = images('train/') | images('val/', 1) | images('test/', 1)
    assert {split: len(found) for split, found in stored(files, tmp_path).items()} == {
        'train': 6,
        'validation': 3,
        'test': 3,
    }


@pytest.mark.parametrize('parent', ['', 'birds/', 'a/train/'])
def test_folders_of_classes_are_all_to_train_on(tmp_path, parent):
    files = images(parent)
    found = stored(files, tmp_path)
    assert set(found) == {'train'}
    check(found['train'], files)
    assert sources.Source('mine', str(tmp_path / 'data')).spec.evaluation is None


@pytest.mark.parametrize('form', ['zip', 'tar.gz'])
def test_an_archive_with_litter_and_other_files(tmp_path, form):
    files = images('birds/train/') | images('birds/test/', 1)
    others = {'birds/README.txt': b'', 'birds/train/cat/cat.xml': b'<cat/>'}
    packed = tiny_archives.littered(files | others)
    source = tiny_archives.write(tmp_path / 'birds', packed, form)
    assert prepare('birds', str(tmp_path / 'data'), str(source)) == {'train': 6, 'test': 3}
    check(read(tmp_path, 'birds')['test'], images('birds/test/', 1))


def test_images_are_grey_if_all_are(tmp_path):
    grey = images(mode='L') | {'ant/bits.png': tiny_archives.encode(np.eye(20, 30) > 0, mode='1')}
    found = stored(grey, tmp_path)
    check(found['train'], grey)
    assert sources.Source('mine', str(tmp_path / 'data')).spec.image_shape == (20, 30, 1)


def test_one_image_in_colour_makes_all_of_them_colour(tmp_path):
    files = images(mode='L')
    files['cat/colour.png'] = tiny_archives.encode(tiny_archives.pictures(1, (20, 30))[0])
    found = stored(files, tmp_path)['train']
    assert sources.Source('mine', str(tmp_path / 'data')).spec.image_shape == (20, 30, 3)
    grey = np.asarray(Image.open(io.BytesIO(files['ant/1.png'])))
    np.testing.assert_array_equal(found['ant/1.png'][1], np.stack([grey] * 3, -1))


def test_images_of_other_sizes_and_formats(tmp_path):
    files = images()
    large = tiny_archives.pictures(1, (40, 21), seed=2)[0]
    for file_format in ('BMP', 'TIFF', 'PPM', 'WEBP'):
        file = io.BytesIO()
        Image.fromarray(large).save(file, file_format, lossless=True)
        files[f'ant/large.{file_format}'] = file.getvalue()
    files['ant/photograph.JPG'] = tiny_archives.encode(large, 'JPEG')
    found = stored(files, tmp_path)
    check(found['train'], files)
    source = sources.Source('mine', str(tmp_path / 'data'))
    assert source.spec.image_shape == (None, None, 3)
    skip = {'image': tfds.decode.SkipDecoding()}
    for example in source.builder.as_data_source('train', decoders=skip):
        if example['file_name'] == b'ant/photograph.JPG':
            assert example['image'] == files['ant/photograph.JPG']


def test_images_are_found_by_all_their_names_and_others_are_counted(tmp_path):
    files = {
        f'{label}/1.{suffix}': tiny_archives.encode(tiny_archives.pictures(1, (20, 30))[0], kind)
        for label, suffix, kind in (
            ('cat', 'jfif', 'JPEG'),
            ('cat', 'JPE', 'JPEG'),
            ('ant', 'pnm', 'PPM'),
            ('9 bees', 'png', 'PNG'),
        )
    }
    others = {'cat/1.gif': b'', 'cat/2.GIF': b'', 'cat/notes': b'', 'ant/1.heic': b''}
    with pytest.warns(UserWarning) as caught:
        found = stored(files | others, tmp_path)
    check(found['train'], files)
    (warning,) = (str(w.message) for w in caught if 'left out' in str(w.message))
    assert sorted(warning.partition('images: ')[2].rstrip('.').split(', ')) == [
        '1 .heic',
        '1 without suffix',
        '2 .gif',
    ]


def test_photographs_are_turned_upright(tmp_path):
    picture = tiny_archives.pictures(1, (20, 30))[0]
    exif = Image.Exif()
    exif[encoded.ORIENTATION] = 6  # to be turned by 90 degrees clockwise
    file = io.BytesIO()
    Image.fromarray(picture).save(file, 'PNG', exif=exif)
    files = images(size=(30, 20)) | {'cat/turned.png': file.getvalue()}
    _, pixels = stored(files, tmp_path)['train']['cat/turned.png']
    np.testing.assert_array_equal(pixels, np.rot90(picture, -1))
    assert sources.Source('mine', str(tmp_path / 'data')).spec.image_shape == (30, 20, 3)


@pytest.mark.parametrize('place', ['cat', 'cat/0.png'])
def test_what_cannot_be_read_is_named(tmp_path, place):
    source = tiny_archives.write_folder(tmp_path / 'in', images())
    (source / place).chmod(0)
    options = '--dataset=mine', f'--data_dir={tmp_path}/data', f'--source={source}'
    done = tiny_runs.call('prepare', *options, before=tiny_runs.AS_A_USER)
    (source / place).chmod(0o700)
    assert done.returncode == 1
    assert done.stderr.startswith(f'error: {source}')
    assert done.stderr.endswith(
        f"Permission denied: '{source / place}'): change its permissions.\n"
    )


def test_a_data_dir_holds_several_datasets_but_none_twice(tmp_path):
    first = stored(images(), tmp_path, 'first')
    second = stored(images(per_class=1, seed=3), tmp_path / 'second', 'first')
    other = tiny_archives.write_folder(tmp_path / 'other', images(per_class=1, seed=3))
    prepare('second', str(tmp_path / 'data'), str(other))
    np.testing.assert_equal(read(tmp_path, 'second'), second)
    with pytest.raises(
        UsageError, match=r'there is already a dataset in \S+/first/1\.0\.0: choose'
    ):
        prepare('first', str(tmp_path / 'data'), str(other))
    np.testing.assert_equal(read(tmp_path, 'first'), first)


def test_a_killed_attempt_does_not_matter(tmp_path):
    (tmp_path / 'data' / 'mine' / 'incomplete.ABC_1.0.0').mkdir(parents=True)
    assert len(stored(images(), tmp_path)['train']) == 6


def test_a_dataset_is_not_written_among_its_images(tmp_path):
    files = images()
    source = tiny_archives.write_folder(tmp_path / 'data' / 'mine', files)
    with pytest.raises(UsageError, match=r'would be written into \S+/data/mine itself'):
        prepare('mine', str(tmp_path / 'data'), str(source))
    assert sum(path.is_file() for path in tmp_path.rglob('*')) == len(files)


GREY16 = io.BytesIO()
Image.fromarray(np.full((20, 30), 3000, np.uint16)).save(GREY16, 'PNG')
IMAGE = images()['cat/0.png']


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        ({}, 'there are no images in'),
        ({'cat/a.txt': b''}, 'there are no images in'),
        ({'a.png': IMAGE}, 'a.png is not where an image should be'),
        (images() | {'a.png': IMAGE}, 'a.png is not where an image should be'),
        (images() | {'cat/more/a.png': IMAGE}, 'cat/more/a.png is not where an image should be'),
        (images('train/') | {'train/a.png': IMAGE}, 'train/a.png is not where an image should be'),
        (images('train/') | images('extra/'), 'extra/9 bees/0.png is not where'),
        ({'cat/0.png': IMAGE, 'cat/1.png': IMAGE}, 'is not where an image should be'),
        (images('test/') | images('val/'), 'there must be training images of two classes at least'),
        (images('birds/val/'), 'there must be training images of two classes at least'),
        ({'train/0.png': IMAGE, 'test/1.png': IMAGE}, 'is in no folder of a class'),
        (images('train/') | {'test/dog/0.png': IMAGE}, 'class dog has test images but none to'),
        (images() | {'cat/cut.png': IMAGE[:400]}, 'cat/cut.png is not a whole image'),
        (images() | {'cat/text.png': b'text'}, 'cat/text.png is not a whole image'),
        (images() | {'cat /0.png': IMAGE}, "the class of 'cat /0.png' cannot be kept"),
        (images() | {'c\nat/0.png': IMAGE}, r"the class of 'c\nat/0.png' cannot be kept"),
        (images() | {'cat/\udcff.png': IMAGE}, r"'cat/\udcff.png' is no text"),
        (images() | {'cat/16.png': GREY16.getvalue()}, 'cat/16.png has more than 8 bits a channel'),
    ],
)
def test_bad_folders_are_refused(tmp_path, files, message):
    source = tiny_archives.write_folder(tmp_path / 'in', files)
    source.mkdir(exist_ok=True)
    tiny_archives.check_refused(tmp_path, 'mine', source, re.escape(message))
