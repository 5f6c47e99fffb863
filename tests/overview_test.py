"""What a run is announced as."""

import pytest

from experiments import describe
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


def test_runs_that_sleep_have_names_of_their_own():
    kinds = ('conv', 'lc', 'lc_mean', 'lc_hebbian')
    assert [overview.short_kind(cifar10.get_config(kind)) for kind in kinds] == list(kinds)


@pytest.mark.parametrize('flops', [0.3e3, 28.8e6, 5.25e9, 0.4e12, 123.456e12])
def test_small_and_large_costs_have_three_digits(flops):
    text = describe.gigas(flops)
    assert float(text.replace(',', '')) == pytest.approx(flops / 1e9, rel=5e-3)
    assert 'e' not in text or flops < 1e6


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
