import functools
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_archives

from lcn_jax.data import batches, shards, sources, splits
from lcn_jax.data.batches import Pixels
from lcn_jax.data.shards import MISSING
from lcn_jax.data.sources import Source
from lcn_jax.data.splits import Images
from lcn_jax.errors import UsageError
from lcn_jax.training import inputs
from lcn_jax.training.train import train_and_evaluate

KEY = jax.random.key(0)
SIZES = {'digits': 16, 'tiny_imagenet': 48}  # of images; 32 for the other datasets
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return tiny_archives.prepare_all(tmp_path_factory.mktemp('data'))


def cifar_config(data_dir, name='cifar10'):
    return tiny_archives.config_for(name, data_dir, image_size=32, batch_size=4)


def random_pixels(number=12, size=8, channels=3) -> Pixels:
    """Images of which no two pixels are equal, with labels that are their numbers."""
    images = np.random.RandomState(0).permutation(number * size * size * channels) % 251
    images = images.reshape(number, size, size, channels).astype(np.uint8)
    mean = np.linspace(0.3, 0.6, channels, dtype=np.float32)
    return Pixels(images, np.arange(number, dtype=np.int32), mean, 0.5 * mean)


def windows(image, pixels, size, padding) -> dict[tuple[int, int], np.ndarray]:
    """Offset from the centre -> normalised crop, all that a training batch may contain."""
    centre = (image.shape[0] - size) // 2
    wide = np.pad(normalised(image, pixels), ((padding, padding), (padding, padding), (0, 0)))
    shifts = [(r, c) for r in range(-padding, padding + 1) for c in range(-padding, padding + 1)]
    return {
        (r, c): wide[padding + centre + r :, padding + centre + c :][:size, :size]
        for r, c in shifts
    }


epoch_order = jax.jit(batches.epoch_order, static_argnums=2)
eval_batch = jax.jit(batches.eval_batch, static_argnames=('batch_size', 'size'))
crop = jax.jit(batches.crop, static_argnums=2)


@functools.partial(jax.jit, static_argnames=('spec', 'count'))
def train_batch(pixels, order, key, step, spec, number=0, count=1):
    """One program for the shards of all numbers."""
    return batches.train_batch(pixels, order, key, step, spec, (number, count))


def make_batch(pixels, step=0, *, key=KEY, shard=(0, 1), **options):
    spec = batches.BatchSpec(**{'batch_size': 12, 'size': 8, 'padding': 2} | options)
    order = epoch_order(key, 0, len(pixels.labels))
    return jax.device_get(train_batch(pixels, order, key, np.int32(step), spec, *shard))


def normalised(images, pixels):
    return (images / 255 - pixels.mean) / pixels.std


def find(image, candidates) -> list:
    return [offset for offset, c in candidates.items() if np.allclose(image, c, atol=1e-5)]


@pytest.mark.parametrize('offset', [(0, 0), (-3, 2), (5, -1), (8, 8), (2, 3)])
def test_crop_is_zero_outside(offset):
    images = random_pixels(2, 6).images
    wide = np.pad(images, ((0, 0), (10, 10), (10, 10), (0, 0)))
    rows, columns = (slice(10 + start, 10 + start + 5) for start in offset)
    cropped = crop(images, np.array([offset, offset]), 5)
    np.testing.assert_array_equal(cropped, wide[:, rows, columns])


@pytest.mark.slow
def test_padding_is_the_mean_colour_and_every_offset_occurs():
    pixels = random_pixels()
    seen = set()
    for step in range(30):
        for image, label in zip(*make_batch(pixels, step)):
            # The zeros of `windows` are what mean-coloured padding is after normalisation.
            matches = find(image, windows(pixels.images[label], pixels, 8, 2))
            assert len(matches) == 1
            seen.update(matches)
    assert len(seen) == 25


def test_larger_images_are_cropped_around_the_centre():
    pixels = random_pixels(4, size=16)
    images, labels = make_batch(pixels, batch_size=4, size=12, padding=1)
    for image, label in zip(images, labels):
        assert find(image, windows(pixels.images[label], pixels, 12, 1))
    images, labels, exists = jax.device_get(eval_batch(pixels, 0, batch_size=4, size=12))
    for image, label in zip(images, labels):
        assert (0, 0) in find(image, windows(pixels.images[label], pixels, 12, 1))
    assert exists.all()


def test_crops_do_not_move_without_padding():
    pixels = random_pixels()
    images, labels = make_batch(pixels, padding=0)
    np.testing.assert_allclose(images, normalised(pixels.images[labels], pixels), atol=1e-6)


def test_copies_of_an_image_have_different_offsets():
    pixels = random_pixels()
    offsets_differ = 0
    for step in range(4):
        images, labels = make_batch(pixels, step, repetitions=4)
        assert (np.bincount(labels, minlength=12)[labels] == 4).all()
        for label in set(labels):
            candidates = windows(pixels.images[label], pixels, 8, 2)
            offsets = [find(image, candidates)[0] for image in images[labels == label]]
            offsets_differ += len(set(offsets)) > 1
    assert offsets_differ == 12


@pytest.mark.parametrize('repetitions', [1, 2, 4])
def test_an_epoch_has_every_image_once(repetitions):
    pixels = random_pixels()
    steps = shards.steps_per_epoch(12, 4, repetitions)
    labels = [
        make_batch(pixels, step, batch_size=4, repetitions=repetitions)[1] for step in range(steps)
    ]
    assert (np.bincount(np.concatenate(labels), minlength=12) == repetitions).all()


def test_shards_make_the_whole_batch():
    pixels = random_pixels()
    options = {'repetitions': 3, 'flips': True}
    whole = make_batch(pixels, 1, **options)
    parts = [make_batch(pixels, 1, shard=(i, 4), **options) for i in range(4)]
    for array, *pieces in zip(whole, *parts):
        np.testing.assert_array_equal(array, np.concatenate(pieces))
    assert all(len(set(labels)) == 3 for _, labels in parts)


def test_without_an_order_images_are_the_batch_already():
    pixels = random_pixels()
    spec = batches.BatchSpec(batch_size=12, size=8, repetitions=2)
    images, labels = train_batch(pixels, None, KEY, np.int32(7), spec)
    np.testing.assert_array_equal(labels, pixels.labels)
    np.testing.assert_allclose(images, normalised(pixels.images, pixels), atol=1e-6)


def test_flips_mirror_half_of_the_images():
    pixels = random_pixels()
    mirrored = []
    for step in range(20):
        images, labels = make_batch(pixels, step, padding=0, flips=True)
        batch = []
        for image, label in zip(images, labels):
            (original,) = windows(pixels.images[label], pixels, 8, 0).values()
            found = find(image, {False: original, True: original[:, ::-1]})
            assert len(found) == 1
            batch += found
        mirrored.append(tuple(batch))
    assert 0.35 < np.mean(mirrored) < 0.65
    assert len(set(mirrored)) > 15  # each image has its own chance


def test_batches_follow_the_key_and_the_step():
    pixels = random_pixels()
    images, labels = make_batch(pixels, 3)
    np.testing.assert_array_equal(images, make_batch(pixels, 3)[0])
    assert (labels != make_batch(pixels, 3, key=jax.random.key(1))[1]).any()
    assert (images != make_batch(pixels, 4)[0]).any()


@pytest.mark.parametrize('examples', [1, 7, 8, 13])
@pytest.mark.parametrize(('processes', 'devices'), [(1, 1), (1, 8), (2, 4)])
@pytest.mark.parametrize('batch_size', [3, 8])
def test_evaluation_has_every_example_once(examples, processes, devices, batch_size):
    pixels = random_pixels(examples, size=4)
    all_images = Images(pixels.images, pixels.labels)
    local = devices // processes
    seen, parts = [], []
    for process in range(processes):
        images, labels = inputs.share_out(all_images, process, processes, devices)
        parts.append(len(labels))
        for device in range(local):
            own = slice(device * len(labels) // local, (device + 1) * len(labels) // local)
            part = Pixels(images[own], labels[own], pixels.mean, pixels.std)
            for start in range(0, len(part.labels), batch_size):
                batch = eval_batch(part, start, batch_size=batch_size, size=4)
                shown, given, exists = jax.device_get(batch)
                seen += list(given[exists])
                expected = normalised(pixels.images[given[exists]], pixels)
                np.testing.assert_allclose(shown[exists], expected, atol=1e-6)
    assert sorted(seen) == list(range(examples))
    assert len(set(parts)) == 1
    assert parts[0] % local == 0


def test_held_out_images_are_random_and_not_trained_on():
    train, validation = sources.hold_out(1000, 100, 0)
    assert len(validation) == 100
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(1000))
    assert (np.diff(validation) > 0).all()
    assert 30 < np.sum(validation < 500) < 70
    np.testing.assert_array_equal(validation, sources.hold_out(1000, 100, 0)[1])
    assert len(sources.hold_out(1000, 0, 0)[1]) == 0
    few = sources.hold_out(1000, 100, 50)[0]
    assert len(few) == 50
    assert set(few) <= set(train)
    assert 10 < np.sum(few < 500) < 40
    for wrong in (1000, -1):
        with pytest.raises(UsageError, match=f'config.validation is {wrong}'):
            sources.hold_out(1000, wrong, 0)
    for wrong in (901, -1):
        with pytest.raises(UsageError, match=f'train_images is {wrong}; there are 900'):
            sources.hold_out(1000, 100, wrong)


@pytest.mark.parametrize(('validation', 'train_images'), [(0, 0), (5, 0), (0, 7), (5, 7)])
def test_resident_input_trains_on_the_rest(data_dir, validation, train_images):
    config = cifar_config(data_dir)
    config.validation, config.train_images = validation, train_images
    made = inputs.make(config, KEY)
    train, test = (Source('cifar10', data_dir).split(name).read() for name in ('train', 'test'))
    kept, held_out = sources.hold_out(20, validation, train_images)
    expected = train.labels[held_out] if validation else test.labels
    ((pixels, order, steps),) = made.train(0, 2)
    assert made.examples == (train_images or 20 - validation)
    assert steps == 2
    np.testing.assert_array_equal(pixels.images[0], train.images[kept])
    np.testing.assert_array_equal(np.sort(order[0]), np.arange(made.examples))
    (pixels,) = made.evaluate()
    labels = np.asarray(pixels.labels).ravel()
    np.testing.assert_array_equal(labels[labels != MISSING], expected)


def test_resident_input_shuffles_every_epoch(data_dir):
    config = cifar_config(data_dir)  # 5 steps an epoch
    made = inputs.make(config, KEY)
    orders = [
        np.asarray(order[0]) for step in (0, 3, 5) for _, order, _ in made.train(step, step + 1)
    ]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).any()
    ((_, resumed, _),) = inputs.make(config, KEY).train(7, 8)
    np.testing.assert_array_equal(resumed[0], orders[2])


def test_pixel_statistics_are_exact():
    images = random_pixels(5, 9).images
    mean, std = Images(images, np.zeros(5, np.int32)).pixel_statistics()
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-6)


def test_pixel_statistics_are_kept_and_can_be_given(data_dir, monkeypatch):
    source = Source('cifar100', data_dir)
    computed = source.pixel_statistics()
    np.testing.assert_array_equal(computed, source.split('train').read().pixel_statistics())
    monkeypatch.setattr(splits.Split, 'read', None)  # nothing is computed again
    np.testing.assert_array_equal(Source('cifar100', data_dir).pixel_statistics(), computed)
    monkeypatch.undo()

    config = cifar_config(data_dir, 'cifar100')
    ((pixels, _, _),) = inputs.make(config, KEY).train(0, 1)
    np.testing.assert_array_equal(pixels.mean[0], computed[0])
    np.testing.assert_array_equal(pixels.std[0], computed[1])
    config.mean, config.std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    ((pixels, _, _),) = inputs.make(config, KEY).train(0, 1)
    np.testing.assert_allclose(pixels.mean[0], (0.1, 0.2, 0.3), rtol=1e-6)
    np.testing.assert_allclose(pixels.std[0], (0.4, 0.5, 0.6), rtol=1e-6)


def test_reading_in_blocks_gives_every_image(data_dir, monkeypatch):
    split = Source('cifar10', data_dir).split('train')
    whole = split.read()
    monkeypatch.setattr(splits, 'READ_BLOCK', 7)
    chosen = np.array([19, 3, 4, 0, 8, 8, 1, 2, 15])
    for part, examples in ((split, np.arange(20)), (split.take(chosen), chosen)):
        np.testing.assert_array_equal(part.read().images, whole.images[examples])
        np.testing.assert_array_equal(part.read().labels, whole.labels[examples])
    rows = np.concatenate([tiny_archives.cifar_rows(4, (10,), i) for i in range(5)])
    expected = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    images = {image.tobytes(): label for image, label in zip(expected, rows[:, 0])}
    found = {i.tobytes(): label for i, label in zip(whole.images, whole.labels)}
    assert found == images


def test_errors_name_missing_folders_datasets_and_splits(data_dir, tmp_path):
    with pytest.raises(UsageError, match='there is no folder /not/there'):
        Source('cifar10', '/not/there').split('train')
    with pytest.raises(UsageError, match=f'not been prepared in {tmp_path}.*--source=PATH'):
        Source('tiny_imagenet', str(tmp_path)).split('train')
    source = Source('tiny_imagenet', data_dir)
    with pytest.raises(UsageError, match=f'no test images in {source.builder.data_path}'):
        source.split('test')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'mean': (0.5,), 'std': (0.5,)}, '3 channels of cifar10'),
        ({'mean': (0.5, 0.5, 0.5)}, 'config.mean and config.std'),
        ({'batch_size': 24}, 'larger than the 20 training images'),
        ({'validation': 20}, 'config.validation is 20'),
        ({'image_size': 33}, 'larger than the images'),
    ],
)
def test_impossible_configs(data_dir, tmp_path, changes, message):
    config = cifar_config(data_dir)
    config.batch_size = 8
    config.update(changes)
    with pytest.raises(UsageError, match=message):
        train_and_evaluate(config, str(tmp_path))


@pytest.mark.slow
def test_validation_is_reported_as_such(data_dir, tmp_path):
    config = cifar_config(data_dir)
    config.batch_size, config.validation, config.epochs = 8, 4, 1
    last = train_and_evaluate(config, str(tmp_path))
    assert last['step'] == 2
    assert 'validation_top1' in last
    assert 'test_top1' not in last


GOLDEN = Path(__file__).with_name('golden_batches.json')


@pytest.mark.parametrize('name', sources.SPECS)
@pytest.mark.slow
@pytest.mark.optimised
def test_golden_batch(data_dir, name):
    """Labels and mean of each image of one batch are what they were when this was written.

    If batches are meant to change, run `RENEW_GOLDEN=1 pytest tests/data_test.py -k golden`.
    """
    config = tiny_archives.config_for(name, data_dir, SIZES.get(name, 32))
    config.translations.padding, config.translations.repetitions = 2, 2
    config.flip = name == 'imagenet2012'
    made = inputs.make(config, KEY)
    ((pixels, order, _),) = made.train(1, 2)
    on_first = jax.tree.map(lambda x: x[0], jax.device_get(pixels))
    if order is None:  # every device has its part of the batch
        images, labels = np.concatenate(pixels.images), np.concatenate(pixels.labels)
        on_first = on_first.replace(images=images, labels=labels)
    else:
        order = np.asarray(order)[0]
    spec = batches.BatchSpec(8, config.image_size, 2, 2, config.flip)
    images, labels = jax.device_get(train_batch(on_first, order, KEY, np.int32(1), spec))
    batch = {'labels': labels.tolist(), 'means': images.mean((1, 2, 3)).tolist()}
    if os.environ.get('RENEW_GOLDEN'):
        golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        GOLDEN.write_text(json.dumps(golden | {name: batch}, indent=1) + '\n')
    golden = json.loads(GOLDEN.read_text())[name]
    assert batch['labels'] == golden['labels']
    np.testing.assert_allclose(batch['means'], golden['means'], atol=2e-3)
