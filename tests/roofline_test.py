"""The bytes of a step by hand, and the committed page."""

import pytest
import tiny_config
from tiny_runs import ROOT

from experiments.reports import roofline
from lcn_jax.training import cost
from lcn_jax.training.experiment import Experiment


def test_bytes_by_hand():
    config = tiny_config.get_config('lc')
    config.model.stage_sizes = (1,)
    experiment = Experiment.create(config)
    layers = cost.layers(experiment.network.model, experiment.network.image_shape)
    channels, width, pixels, classes, images = experiment.network.image_shape[2], 2, 64, 10, 5
    kernels = pixels * 9 * (channels * width + 2 * width * width)
    parameters = kernels + 3 * 2 * width + (width + 1) * classes
    patches = pixels * 9 * (3 * channels + 2 * 5 * width)
    assert roofline.step_bytes(experiment.network.parameters, layers, images) == {
        'weights': parameters * (4 + 3 * 2),
        'gradients': parameters * 2 * 2,
        'AdamW': parameters * 6 * 4,
        'activations': images * (3 * pixels * width + classes) * 15 * 2,
        'patches': images * patches * 2,
    }


def test_the_slower_of_flops_and_bytes_is_the_bound(monkeypatch):
    devices = roofline.Device('computes', 1e3, 1.0), roofline.Device('moves', 1.0, 1e3)
    monkeypatch.setattr(roofline, 'DEVICES', devices)
    assert roofline.bounds(2, 3) == [
        *('2.00', '3,000.00', 'bytes'),
        *('2,000.00', '3.00', 'FLOPs'),
    ]


@pytest.mark.slow
def test_the_page_is_what_the_code_computes():
    """`python -m experiments.roofline --out=docs/roofline.md` renews it."""
    assert (ROOT / 'docs/roofline.md').read_text() == roofline.page()
