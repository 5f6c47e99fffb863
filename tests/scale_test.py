"""The computed costs: against the compiled program, published numbers, and the committed page."""

import itertools

import jax
import pytest
import tiny_config
from tiny_runs import ROOT

from experiments.measure import footprint
from experiments.reports import scale
from lcn_jax.training import sharding
from lcn_jax.training.experiment import Experiment

pytestmark = pytest.mark.optimised  # XLA plans what is sent


def tiny(kind):
    config = tiny_config.get_config(kind)
    config.model.stage_sizes, config.model.width = (1, 1), 4
    return config


@pytest.mark.slow
def test_a_step_sends_what_the_page_counts():
    """The compiled one, in float32, sends twice as many bytes; eight devices for 16 positions."""
    devices = jax.device_count()
    config = tiny('lc')
    config.shard_kernels = True
    network = scale.from_config('tiny', tiny, config.batch_size // devices)
    sent = footprint.of_step(Experiment.create(config)).sent['all-to-all']
    assert 2 * scale.sent_by_all_to_all(network, devices) == sent


def test_a_device_has_the_parameters_that_the_page_counts():
    config = tiny('lc')
    config.shard_kernels = True
    experiment = Experiment.create(config)
    shapes = sharding.shapes(experiment.shapes, experiment.owners).params
    devices = jax.device_count()
    network = scale.from_config('tiny', tiny, 1)
    counted = scale.parameters_on_device(network, devices)
    assert counted == sum(leaf.size for leaf in jax.tree.leaves(shapes)) // devices


def test_resnet50_is_that_of_the_literature():
    """25,557,032 parameters and 4.1 GFLOPs (multiply-adds) with stride in the 3×3 convolutions."""
    network = scale.resnet50(1)
    local = [layer for layer, _ in network.local]
    of_one = sum(layer.parameters // (layer.outputs // layer.kernel[-1]) for layer in local)
    whole = network.parameters - sum(layer.parameters for layer in local)
    assert of_one + whole == 25_557_032
    assert sum(layer.flops for layer in network.layers) / 2 == pytest.approx(4.09e9, rel=0.005)


@pytest.mark.parametrize(('devices', 'sides'), [(8, (2, 4)), (64, (8, 8)), (512, (16, 32))])
def test_hops_on_a_torus(devices, sides):
    def distance(axis, at):
        return min(at, sides[axis] - at)

    nodes = list(itertools.product(*map(range, sides)))
    assert len(nodes) == devices
    hops = [distance(0, row) + distance(1, column) for row, column in nodes]
    assert scale.mean_hops(devices) == sum(hops) / devices


@pytest.mark.slow
def test_the_page_is_what_the_code_computes():
    """`python -m experiments.scale --out=docs/scale.md` renews it."""
    assert (ROOT / 'docs/scale.md').read_text() == scale.page()
