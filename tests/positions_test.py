"""Images at places on a canvas, the file of short runs, and the tables made of it, by hand."""

import gzip

import numpy as np
import pytest

from experiments.common import kept
from experiments.datasets import placed
from experiments.measure import positions
from experiments.reports import enough_sleep as enough_report
from experiments.reports import positions as report
from lcn_jax.errors import UsageError
from lcn_jax.files import make_folder, to_json, write_text
from lcn_jax.training import config as configs


def corners(reach):
    images = np.full((1500, 3, 3), 7, np.uint8)
    on_canvas = placed.place(images, canvas=11, reach=reach, seed=1)
    assert (on_canvas.sum((1, 2)) == 9 * 7).all()
    return np.array([np.argwhere(image)[0] for image in on_canvas])


def test_places_fill_a_square_around_the_centre_and_a_wider_one_moves_the_same_images_further():
    assert (corners(0) == 4).all()
    for reach, first in ((1, 3), (2, 3), (8, 0)):
        found = corners(reach)
        assert found.min() == first and found.max() == first + reach
        assert len(np.unique(found, axis=0)) == (reach + 1) ** 2
    near, far = corners(2) - 3, corners(8)
    assert np.abs(far / 9 - near / 3).max() < 1 / 3  # both are the same fractions, rounded down


def test_digits_are_those_of_the_dataset():
    splits = placed.digits()
    assert [len(labels) for _, labels in splits.values()] == [1200, 597]
    assert splits['train'][0].max() == 255 and splits['train'][0].shape[1:] == (8, 8)


def test_fashion_is_read_from_the_official_files(tmp_path):
    image = np.zeros((28, 28), np.uint8)
    image[:2, :2] = [[10, 20], [30, 40]]
    for name in ('train', 't10k'):
        images = bytes(16) + np.stack([image] * 3).tobytes()
        (tmp_path / f'{name}-images-idx3-ubyte.gz').write_bytes(gzip.compress(images))
        (tmp_path / f'{name}-labels-idx1-ubyte.gz').write_bytes(gzip.compress(bytes(8) + b'\1\2\3'))
    splits = placed.fashion(tmp_path, train=3, test=2)
    images, labels = splits['test']
    assert images.shape == (2, 14, 14) and images[0, 0, 0] == 25 and images[0].sum() == 25
    assert labels.tolist() == [1, 2] and len(splits['train'][1]) == 3
    with pytest.raises(UsageError, match='install dataset-fashion-mnist'):
        placed.fashion(tmp_path / 'other', 1, 1)


def test_what_is_in_the_file_is_not_trained_again(tmp_path, monkeypatch):
    """Nor what has been finished in a workdir, which is added first."""
    out, workdirs, trained = str(tmp_path / 'out'), str(tmp_path / 'runs'), []

    def train(runs, report):
        trained.extend(runs.configs)
        for name in runs.configs:
            finish(name)
        report(workdirs)

    def finish(name):
        done = dict.fromkeys(kept.MEASURED, 0.5) | {'weight_deviation': None}
        write_text(make_folder(f'{workdirs}/{name}') / 'done.json', to_json(done))

    def complete(seeds):
        runs = [({'kind': 'LC (1)', 'seed': seed}, config) for seed in seeds]
        kept.complete(
            out, workdirs, runs, lambda records: f'{len(records)} runs\n\n', lambda _: None
        )

    monkeypatch.setattr(kept.many, 'run', train)
    monkeypatch.setattr(kept.pictures, 'save', lambda figure, path: None)
    config = configs.default()
    config.connectivity = 'lc'
    complete([0, 1])
    finish('LC_1_-2')
    complete([1, 2])
    complete([1, 2, 3])
    assert trained == ['LC_1_-0', 'LC_1_-1', 'LC_1_-3']
    records = kept.read(f'{out}/runs.json')
    assert [record['point']['seed'] for record in records] == [0, 1, 2, 3]
    assert records[0]['config'] == {'connectivity': 'lc'} and records[0]['test_top1'] == 0.5
    assert (tmp_path / 'out/table.md').read_text() == '4 runs\n'
    finish('LC_1_-4')
    (tmp_path / 'runs/LC_1_-4/config.json').write_text(config.to_json_best_effort())
    config.epochs = 3
    with pytest.raises(UsageError, match=r"has a run .*'seed': 1\} with another config"):
        complete([1])
    with pytest.raises(UsageError, match='LC_1_-4 holds a run with another config'):
        complete([4])


def test_networks_learn_for_as_many_steps_from_few_images_as_from_many():
    task = positions.Task(placed.digits, size=8, images=1200, numbers=(150,), steps=480)
    for number, epochs in ((1200, 24), (150, 240)):
        point = {'task': 'digits', 'reach': 4, 'images': number, 'kind': 'lc', 'seed': 0}
        config = positions.config_of(point, task, data_dir='', steps=task.steps)
        assert (config.epochs, config.train_images) == (epochs, number)


def record(accuracy, **point):
    return {
        'point': point,
        'test_top1': accuracy,
        'weight_deviation': 0.125,
        'config': {'batch_size': 60},
    }


def test_the_tables_of_positions():
    records = [
        record(value + seed / 100, task='digits', reach=reach, images=images, kind=kind, seed=seed)
        for reach, images, kind, value in [
            (0, 1200, 'conv', 0.90),
            (0, 1200, 'lc', 0.95),
            (4, 1200, 'conv', 0.90),
            (4, 1200, 'lc', 0.60),
            (4, 150, 'conv', 0.80),
        ]
        for seed in (0, 1)
    ]
    (_, axis, by_reach), (_, other_axis, by_images) = report.panels(records)
    assert (axis, [value for value, _ in by_reach]) == ('reach', [0, 4])
    assert (other_axis, [value for value, _ in by_images]) == ('images', [150, 1200])
    text = report.markdown(records)
    assert '| 0 | 90.5 ± 0.7 | 95.5 ± 0.7 |  |  | +5.0 ± 0.0 |  |' in text
    assert '| 1,200 | 90.5 ± 0.7 | 60.5 ± 0.7 |  |  | −30.0 ± 0.0 |  |' in text
    assert '| 150 | 80.5 ± 0.7 |  |  |  |  |  |' in text
    assert [axes.axison for axes in report.draw(records).axes] == [True, True]
    assert [axes.axison for axes in report.draw(records[:4]).axes] == [False, False]
    assert [axes.axison for axes in report.draw(records[:6]).axes] == [True, False]


def test_the_tables_of_enough_sleep():
    records = [
        record(0.9, optimizer='adamw', reference='conv', seed=0),
        *(
            record(
                0.5 + patterns / 100, optimizer=optimizer, pools='joined', momentum='own',
                patterns=patterns, seed=0,
            )
            for optimizer in enough_report.OPTIMIZERS
            for patterns in (1, 8)
        ),
    ]  # fmt: skip
    text = enough_report.markdown(records)
    assert '| conv | 90.0 | 0.12 | 1 |' in text
    assert '| 8 | 58.0 (0.12) |  |  |  |' in text
    for done in (records, records[:1]):  # all of them, and what was done before a stop
        assert len(enough_report.draw(done).axes) == 2
        assert enough_report.markdown(done).startswith('| | test accuracy, %')
