import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
import tiny_archives
from PIL import Image

from lcn_jax.data import photographs, streaming
from lcn_jax.data.prepare import prepare
from lcn_jax.data.shards import MISSING
from lcn_jax.data.sources import Source
from lcn_jax.data.splits import Split
from lcn_jax.errors import UsageError
from lcn_jax.training import inputs
from lcn_jax.training.train import train_and_evaluate

TRAIN, VALIDATION = 12, 3


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('imagenet')
    source = tiny_archives.write_folder(folder / 'in', tiny_archives.imagenet_files())
    prepare('imagenet2012', str(folder / 'data'), str(source), str(source / 'labels.txt'))
    return str(folder / 'data')


def train_batches(data_dir, **changes):
    split = Source('imagenet2012', data_dir).split('train')
    options = {'steps': 20, 'batch_size': 4, 'repetitions': 1, 'size': 16, 'channels': 3}
    return streaming.TrainBatches(split, seed=0, shard=(0, 1), **(options | changes))


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_files_are_labelled_and_named(data_dir):
    source = Source('imagenet2012', data_dir)
    split = source.split('train')
    classes = source.builder.info.features['label'].names
    names = [split[i][2].partition(',')[0] for i in range(len(split))]
    assert sorted(names) == sorted(f'{w}_{i}.JPEG' for w in tiny_archives.WNIDS for i in range(4))
    assert [classes[split[i][1]] for i in range(len(split))] == [n.split('_')[0] for n in names]
    assert split.take(np.array([5, 2]))[1] == split[2]


@pytest.mark.slow
def test_workers_and_resuming_change_nothing(data_dir):
    batches = train_batches(data_dir, steps=8)
    expected = list(streaming.stream(batches, 0, workers=0))
    assert len(expected) == 8
    assert not same(expected[0], expected[3])
    for first, workers in ((0, 2), (5, 1), (5, 0)):
        made = list(streaming.stream(batches, first, workers))
        assert len(made) == 8 - first
        assert all(same(a, b) for a, b in zip(made, expected[first:]))


def test_an_epoch_has_every_image_once_in_a_new_order(data_dir):
    batches = train_batches(data_dir, batch_size=6, repetitions=2)
    numbered = dataclasses.replace(batches, split=Numbered(batches.split))
    epochs = [[numbered[step][1] for step in range(4 * e, 4 * e + 4)] for e in (0, 1)]
    for epoch in epochs:
        assert (np.bincount(np.concatenate(epoch)) == 2).all()
    assert not same(*epochs)


def test_copies_lie_apart_and_shards_make_the_whole_batch(data_dir):
    batches = train_batches(data_dir, batch_size=12, repetitions=3)
    images, labels = batches[1]
    for i in range(4):
        np.testing.assert_array_equal(images[i], images[i + 4])
        np.testing.assert_array_equal(images[i], images[i + 8])
    assert len(np.unique(images[:4], axis=0)) == 4
    parts = [dataclasses.replace(batches, shard=(i, 3))[1] for i in range(3)]
    np.testing.assert_array_equal(images, np.concatenate([part for part, _ in parts]))
    np.testing.assert_array_equal(labels, np.concatenate([part for _, part in parts]))


def test_crops_differ_by_image_step_and_seed(data_dir):
    batches = train_batches(data_dir, batch_size=4)
    batches = dataclasses.replace(batches, split=batches.split.take(np.zeros(12, int)))  # one image
    other = dataclasses.replace(batches, seed=1)
    crops = np.concatenate([batches[0][0], batches[1][0], other[0][0]])
    assert len(np.unique(crops, axis=0)) == 12


@pytest.mark.parametrize('batch_size', [2, 4, 6])
@pytest.mark.parametrize('processes', [1, 2])
def test_evaluation_has_every_example_once(data_dir, batch_size, processes):
    split = Numbered(Source('imagenet2012', data_dir).split('validation'))
    labels, lengths = [], set()
    for process in range(processes):
        made = streaming.EvalBatches(split, batch_size, 16, 3, (process, processes))
        lengths.add(len(made))
        for step in range(len(made)):
            images, numbers = made[step]
            assert images.shape == (batch_size // processes, 16, 16, 3)
            labels += list(numbers)
    assert len(lengths) == 1
    assert sorted(label for label in labels if label != MISSING) == list(range(VALIDATION))


@dataclasses.dataclass(frozen=True)
class Numbered:
    """A split whose labels are the numbers of its images."""

    split: Split

    def __len__(self):
        return len(self.split)

    def __getitem__(self, index):
        file, _, name = self.split[index]
        return file, int(index), name


def test_random_boxes():
    rng = np.random.default_rng(0)
    width, height = 400, 300
    boxes = np.array([photographs.random_box(width, height, rng) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    assert (left >= 0).all() and (top >= 0).all()
    assert (right <= width).all() and (bottom <= height).all()
    areas = (right - left) * (bottom - top) / (width * height)
    shapes = (right - left) / (bottom - top)
    assert 0.07 < areas.min() < 0.1 and areas.max() > 0.9
    assert 0.7 < shapes.min() < 0.8 and 1.28 < shapes.max() < 1.4
    assert (left == 0).mean() < 0.2 and (right == width).mean() < 0.2
    assert photographs.random_box(1000, 30, rng) == (480, 0, 520, 30)
    assert photographs.random_box(30, 1000, rng) == (0, 480, 30, 520)


def test_crops_are_parts_of_the_image():
    rows, columns = np.mgrid[:200, :240]
    image = np.stack([rows, columns, np.full_like(rows, 77)], -1).astype(np.uint8)
    file = tiny_archives.encode(image)

    class Fixed:
        """Chooses half of the area, square, at (left, top) = (20, 30)."""

        draws = iter((0.5, 0.0, 20, 30))

        def uniform(self, low, high):
            return next(self.draws)

        def integers(self, high):
            return next(self.draws)

    choose_box = functools.partial(photographs.random_box, rng=Fixed())
    crop = photographs.crop(file, 'image', 31, 3, choose_box)
    side = round(np.sqrt(0.5 * 200 * 240))
    centres = (np.arange(31) + 0.5) * side / 31 - 0.5
    np.testing.assert_allclose(crop[1:-1, 5, 0], 30 + centres[1:-1], atol=1)
    np.testing.assert_allclose(crop[5, 1:-1, 1], 20 + centres[1:-1], atol=1)
    assert (crop[..., 2] == 77).all()


def centre_crop(file, size, channels=3):
    return photographs.crop(file, 'image', size, channels, photographs.centre_box)


@pytest.mark.parametrize(('size', 'shape'), [(224, (300, 375)), (56, (480, 384))])
def test_centre_crop_is_resize_256_and_crop_224(size, shape):
    image = tiny_archives.pictures(1, shape)[0]
    shorter = round(size * 256 / 224)
    scale = shorter / min(shape)
    resized = Image.fromarray(image).resize(
        (round(shape[1] * scale), round(shape[0] * scale)), Image.Resampling.BILINEAR
    )
    left, top = ((side - size) // 2 for side in resized.size)
    expected = np.asarray(resized)[top : top + size, left : left + size].astype(int)
    for file_format in ('PNG', 'JPEG'):  # a JPEG is decoded at a lower resolution
        file = tiny_archives.encode(image, file_format)
        crop = centre_crop(file, size)
        assert crop.shape == (size, size, 3)
        assert np.abs(crop - expected).mean() < 2.5


@pytest.mark.parametrize('mode', ['L', 'CMYK'])
def test_other_colours_become_rgb(mode):
    image = np.repeat(tiny_archives.pictures(1, (64, 64))[0][..., :1], 3, -1)
    crop = centre_crop(tiny_archives.encode(image, 'JPEG', mode), 32)
    expected = centre_crop(tiny_archives.encode(image), 32)
    assert np.abs(crop.astype(int) - expected).mean() < 3


@pytest.mark.parametrize('mode', ['L', 'RGB'])
def test_grey_crops_have_one_channel(mode):
    image = np.repeat(tiny_archives.pictures(1, (64, 48))[0][..., :1], 3, -1)
    grey = centre_crop(tiny_archives.encode(image, mode=mode), 32, 1)
    expected = centre_crop(tiny_archives.encode(image), 32)
    assert grey.shape == (32, 32, 1)
    np.testing.assert_allclose(grey[..., 0].astype(int), expected[..., 0], atol=1)


def imagenet_config(data_dir):
    config = tiny_archives.config_for('imagenet2012', data_dir, image_size=16)
    config.translations.padding, config.translations.repetitions = 2, 2
    config.flip, config.log_every = True, 2
    return config


def test_input_resumes_from_the_step(data_dir, monkeypatch):
    config, key, opened = imagenet_config(data_dir), jax.random.key(0), []
    stream = streaming.stream
    monkeypatch.setattr(streaming, 'stream', lambda *args: opened.append(args) or stream(*args))
    made = inputs.make(config, key)
    pixels = [p for stretch in ((0, 2), (2, 3), (3, 6)) for p, _, _ in made.train(*stretch)]
    assert len(pixels) == 6
    assert len(opened) == 1
    assert len(np.concatenate(pixels[0].images)) == 8
    assert pixels[0].images.shape[2:] == (20, 20, 3)  # room for the padding of 2
    resumed = [p for p, _, _ in inputs.make(config, key).train(4, 6)]
    for one, other in zip(pixels[4:], resumed, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.slow
def test_trains_and_evaluates(data_dir, tmp_path, workers):
    config = imagenet_config(data_dir)
    config.workers = workers
    records = []
    last = train_and_evaluate(config, str(tmp_path), records.append)
    assert last['step'] == 6  # 12 images, 4 in a batch
    assert [record['step'] for record in records] == [2, 3, 4, 6]
    hits = last['test_top1'] * VALIDATION
    assert hits == pytest.approx(round(hits), abs=1e-5)
    assert np.isfinite(last['test_loss'])


def test_holds_out_validation_images(data_dir):
    config = imagenet_config(data_dir)
    config.validation, config.train_images = 4, 5
    made = inputs.make(config, jax.random.key(0))
    assert made.examples == 5
    labels = np.concatenate([np.ravel(pixels.labels) for pixels in made.evaluate()])
    assert (labels != MISSING).sum() == 4


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.slow
def test_broken_image_is_named(workers):
    batches = streaming.EvalBatches(Broken(), 2, 16, 3, (0, 1))
    with pytest.raises(UsageError, match=re.escape('broken.JPEG is not a whole image')):
        list(streaming.stream(batches, 0, workers))


class Broken:
    """One file, cut in the middle."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        file = tiny_archives.encode(tiny_archives.pictures(1, (64, 64))[0], 'JPEG')
        return file[:600], 0, 'broken.JPEG'
