"""What `lcn_jax.load` gives of a run, compared with Flax, with the records and by counting."""

import dataclasses
import functools
import json
import pathlib

import jax
import numpy as np
import pytest
import tiny_runs
from reference import compiled

import lcn_jax
from lcn_jax.errors import UsageError
from lcn_jax.layer.local_parameters import by_path
from lcn_jax.training import network_file

SIZE = 8  # pixels; the images of the data have 16


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp('data')


@pytest.fixture(scope='module')
def workdir(data_dir, tmp_path_factory):
    """A network that sleeps in joined pools, trained for an epoch."""
    folder = tmp_path_factory.mktemp('run')
    config = tiny_runs.one_epoch(data_dir)
    config.pools.kind = 'joined'
    tiny_runs.train(config, folder)
    return folder


@pytest.fixture(scope='module')
def trained(workdir):
    return lcn_jax.load(str(workdir))


@pytest.fixture(scope='module')
def test_images(trained):
    """The centres of the test images, as evaluation crops them, and their labels."""
    images = trained.source.split('test').read()
    return images.images[:, 4:12, 4:12], images.labels


def test_logits_are_those_of_the_model(trained, test_images):
    images = test_images[0][:70]  # more than a batch
    normalised = (images / 255 - trained.mean_std[0]) / trained.mean_std[1]
    apply = compiled(functools.partial(trained.model.apply, train=False))
    expected = apply(trained.variables, normalised.astype(np.float32))
    logits = trained.logits(images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trained.logits(images / 255), logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trained.logits(images[0]), logits[:1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(trained.predict(images), logits.argmax(1))
    assert trained.predict(images[:0]).shape == (0,)


def test_nothing_is_printed(workdir, capfd):
    lcn_jax.load(str(workdir), 'best')
    assert capfd.readouterr() == ('', '')


def test_activations_have_channels_last(trained, test_images):
    found = trained.activations(test_images[0][:2])
    assert set(trained.layers) == set(found) and 'logits' in found
    stem = trained.activations(test_images[0][:2], ['stem'])['stem']
    assert stem.shape == (2, SIZE, SIZE, 2)
    assert (stem[:, 0, 0] >= 0).all()


def test_kernels_have_positions_in_front(trained):
    kernel = trained.kernel('stem_conv')
    assert isinstance(kernel, np.ndarray) and kernel.shape == (SIZE, SIZE, 3, 3, 1, 2)
    assert trained.kernel('logits').shape == (2, 10)
    with pytest.raises(ValueError, match=r"'conv9' has a kernel; known: logits, stem_conv"):
        trained.kernel('conv9')


def test_grids_have_the_pools_of_the_run(trained):
    assert by_path(trained.grids)['stem_conv', 'kernel'].joined
    assert trained.class_names == tuple('0123456789')


def test_scores_are_those_of_the_records_and_add_up(trained, workdir, test_images):
    scores = trained.evaluate()
    last = tiny_runs.records(workdir)[-1]
    for name, value in scores.metrics.items():
        np.testing.assert_allclose(value, last[name], rtol=1e-6, err_msg=name)
    images, labels = test_images
    predicted = trained.predict(images)
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (labels, predicted), 1)
    np.testing.assert_array_equal(scores.confusion, expected)
    for number, accuracy in enumerate(scores.per_class.values()):
        of_class = labels == number
        np.testing.assert_allclose(accuracy, (predicted[of_class] == number).mean())


def test_another_dataset_is_normalised_as_the_images_of_the_training(trained, test_images):
    config = trained.config.copy_and_resolve_references()
    config.mean, config.std = (0.8,), (0.1,)  # as if it had been trained on other images
    other = dataclasses.replace(trained, config=config)
    images, labels = test_images
    logits = other.logits(images)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
    loss = other.evaluate('digits').metrics['test_loss']
    np.testing.assert_allclose(loss, losses.mean(), rtol=1e-4)
    assert loss > 1.1 * trained.evaluate('digits').metrics['test_loss']


@pytest.mark.parametrize(
    'images, message',
    [
        (np.zeros((2, SIZE, SIZE, 3), np.uint8), r'must be \(N, H, W, 1\)'),
        (np.zeros((SIZE, SIZE), np.uint8), r'must be \(N, H, W, 1\)'),
        (np.full((2, SIZE, SIZE, 1), 255.0), r'must be uint8, or floats in \[0, 1\]'),
        (np.full((2, SIZE, SIZE, 1), -0.5), r'from -0\.5 to -0\.5; they must be'),
        (np.full((2, SIZE, SIZE, 1), np.nan), 'from nan to nan; they must be'),
        (np.zeros((2, SIZE, SIZE, 1), int), r'must be uint8, or floats'),
        (np.zeros((2, 9, SIZE, 1), np.uint8), r'does not take images \(9, 8, 1\).*\(8, 8, 1\)'),
    ],
)
def test_other_images_are_refused(trained, images, message):
    with pytest.raises(ValueError, match=message):
        trained.logits(images)


def test_a_dataset_with_other_classes_is_refused(trained):
    with pytest.raises(UsageError, match='cifar100 has images of 3 channels'):
        trained.evaluate('cifar100')


@pytest.mark.slow
def test_kernels_that_devices_divided_are_whole(data_dir, tmp_path, test_images):
    config = tiny_runs.one_epoch(data_dir)
    config.shard_kernels, config.train_images = True, 240
    config.sleep.rule = 'none'
    tiny_runs.train(config, tmp_path)
    divided = lcn_jax.load(str(tmp_path))
    assert divided.kernel('stem_conv').shape == (SIZE, SIZE, 3, 3, 1, 2)
    images, labels = test_images
    scores = divided.evaluate()  # by divided kernels
    assert (divided.predict(images) == labels).sum() == scores.confusion.trace()


def test_a_saved_network_is_the_same_in_float16(trained, test_images, tmp_path):
    trained.save(tmp_path / 'made/net.npz')
    again = lcn_jax.load(tmp_path / 'made/net.npz', data_dir=trained.config.data_dir)
    kernel = trained.kernel('stem_conv').astype(np.float16)
    np.testing.assert_array_equal(again.kernel('stem_conv'), kernel.astype(np.float32))
    assert again.step == trained.step
    assert by_path(again.grids) == by_path(trained.grids)
    images = test_images[0][:70]
    np.testing.assert_allclose(again.logits(images), trained.logits(images), atol=0.02)


def test_what_float16_cannot_hold_is_not_saved(trained, tmp_path):
    (tmp_path / 'net.npz').write_text('before')
    variables = jax.tree.map(lambda leaf: leaf + np.float32(1e5), trained.variables)
    with pytest.raises(UsageError, match='numbers that float16 cannot hold'):
        dataclasses.replace(trained, variables=variables).save(tmp_path / 'net.npz')
    assert (tmp_path / 'net.npz').read_text() == 'before'


OTHERS = [{'x': np.ones(3)}, {'network': np.array('{}')}, {'network': np.array('[1]')}]


@pytest.mark.parametrize('content', [None, b'', b'PK\x03\x04', *OTHERS], ids=str)
def test_files_that_hold_no_network_are_refused(content, tmp_path):
    path = tmp_path / 'net.npz'
    if isinstance(content, dict):
        np.savez(path, **content)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r'net\.npz'):
        lcn_jax.load(path)


def test_a_damaged_network_is_one_line(tmp_path):
    """Whichever of its bytes is another: of the archive's structure, or of a compressed array."""
    whole = bytearray((network_file.PRETRAINED / 'digits/conv.npz').read_bytes())
    path, refused = tmp_path / 'net.npz', 0
    for position in range(0, len(whole), len(whole) // 60):
        damaged = whole.copy()
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            network_file.read(path)
        except UsageError as error:
            assert 'net.npz' in str(error) and '\n' not in str(error)
            refused += 1
    assert refused > 30


@pytest.mark.parametrize('name', network_file.pretrained())
@pytest.mark.slow
@pytest.mark.optimised
def test_a_network_of_the_package_scores_what_its_card_says(name, data_dir):
    card = json.loads((network_file.PRETRAINED / f'{name}.json').read_text())
    network = lcn_jax.load(name, data_dir=str(data_dir))
    test = network.source.split('test').read()
    right = (network.predict(test.images) == test.labels).sum()
    assert abs(right - card['test_top1'] * len(test.labels)) <= 1  # but for rounding
    assert card['bytes'] == (network_file.PRETRAINED / f'{name}.npz').stat().st_size <= 3e6
    command = card['command'].split()
    assert command[:3] == ['python', '-m', 'experiments.train']
    assert not card['commit'].endswith('+')


def test_the_page_has_the_cards():
    page = (tiny_runs.ROOT / 'docs/after_training.md').read_text()
    for name in network_file.pretrained():
        card = json.loads((network_file.PRETRAINED / f'{name}.json').read_text())
        accuracy, size = 100 * card['test_top1'], card['bytes'] / 1e6
        row = f'| `{name}` | {card["parameters"]:,} | {accuracy:.1f} | {size:.2f} |'
        assert row in page, row


def test_what_exists_comes_before_the_networks_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r'digits/lc_hebian holds no run.* digits/conv, digits/lc'):
        lcn_jax.load('digits/lc_hebian')
    pathlib.Path('digits/conv').mkdir(parents=True)
    with pytest.raises(UsageError, match=r'digits/conv holds no run: there is no .*config\.json'):
        lcn_jax.load('digits/conv')


@pytest.mark.slow
def test_the_binary_writes_the_matrix(workdir, tmp_path):
    done = tiny_runs.call('evaluate', f'--workdir={workdir}', f'--confusion={tmp_path}/made')
    assert done.returncode == 0, done.stderr
    accuracy = json.loads(done.stdout)['test_top1']
    header, *lines = (tmp_path / 'made/confusion.csv').read_text().splitlines()
    assert header == 'class,0,1,2,3,4,5,6,7,8,9,accuracy'
    counts = np.array([[int(n) for n in line.split(',')[1:-1]] for line in lines])
    np.testing.assert_allclose(counts.trace() / counts.sum(), accuracy)
    assert (tmp_path / 'made/confusion.png').read_bytes().startswith(b'\x89PNG')
