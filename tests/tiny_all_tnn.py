"""A small All-TNN with random weights."""

import jax
import numpy as np
import tiny_runs

from lcn_jax.trained.load import Trained
from lcn_jax.training.network import Network


def trained() -> Trained:
    """7 × 7 positions of 4 features with a pool, then 2 × 2 of 9."""
    config = tiny_runs.get_config('resident')
    shape = dict(features=(4, 9), kernel_sizes=(3, 2), strides=(2, 1), pooled=(1,))
    fields = {f'model.{name}': value for name, value in shape.items()}
    config.update_from_flattened_dict({'model.name': 'all_tnn', 'image_size': 16, **fields})
    network = Network.create(config)
    rng = np.random.RandomState(0)
    variables = jax.tree.map(
        lambda leaf: rng.rand(*leaf.shape).astype(np.float32) - 0.2, dict(network.variables)
    )
    return Trained(config, network, variables)
