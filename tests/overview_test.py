"""What a run is announced as."""

import pytest

from experiments.common import overview
from experiments.configs import cifar10
from lcn_jax.training.experiment import Experiment


@pytest.mark.slow
def test_a_run_is_announced_by_what_it_costs_and_where_it_starts(tmp_path):
    config = cifar10.get_config('lc_hebbian')
    config.update(data_dir='/no/such', epochs=3)
    network, data, training, devices, workdir = overview.summary(
        Experiment.create(config), str(tmp_path)
    ).splitlines()
    assert network.endswith(
        'locally connected, sleep by hebbian every 10 steps; 40,814,762 parameters'
    )
    assert data.endswith('cifar10 in /no/such, 32×32×3')
    assert training.endswith('3 epochs, 512 images a step, float32')
    estimate = sum(overview.memory(Experiment.create(config)).values())
    assert devices.endswith(f'8 × cpu; on each about {estimate / 2**20:.1f} MiB, and the images')
    assert workdir.endswith(f'{tmp_path}, from the start')
    for step in (90, 100):
        (tmp_path / f'checkpoints/{step}').mkdir(parents=True)
    (tmp_path / 'checkpoints/110.orbax-checkpoint-tmp').mkdir()  # was being written
    assert overview.summary(Experiment.create(config), str(tmp_path)).endswith(
        f'{tmp_path}, continues from step 100'
    )


@pytest.mark.parametrize(
    'kind, expected',
    [
        ('conv', 'convolutional'),
        ('lc', 'locally connected'),
        ('lc_translations', 'locally connected, 4 translations'),
    ],
)
def test_a_kind_in_words(kind, expected):
    assert overview.kind(cifar10.get_config(kind)) == expected
