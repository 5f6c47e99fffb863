"""Two small networks, images, and the activations of the networks for them."""

import numpy as np
import pytest
from tiny_networks import LAYERS, SHORTCUT, make_config, make_run

from lcn_jax.brain import features
from lcn_jax.trained.load import load

rng = np.random.default_rng


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """The workdirs of a convolutional and a locally connected network."""
    folder = tmp_path_factory.mktemp('runs')
    kinds = {'conv': 0, 'lc': 1}
    for kind, seed in kinds.items():
        (folder / kind).mkdir()
        make_run(folder / kind, make_config(kind), seed)
    return {kind: folder / kind for kind in kinds}


@pytest.fixture(scope='module')
def networks(runs):
    return {kind: load(str(workdir)) for kind, workdir in runs.items()}


@pytest.fixture(scope='module')
def images():
    return list(rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8))


@pytest.fixture(scope='module')
def found(networks, images):
    """The activations of each network."""
    return {
        kind: features.extract(network, images, (*LAYERS, SHORTCUT))
        for kind, network in networks.items()
    }
