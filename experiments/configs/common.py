"""The paper's Table 1 (ResNet-20, AdamW, 200 epochs), and the same on a small budget."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from lcn_jax.training import config as configs


def table1(dataset: str, image_size: int, kind: str) -> ConfigDict:
    """The config of one kind in the column with padding 4; 0 and 8 are the other columns.

    To choose a learning rate as the paper did, hold out a tenth of the training images with
    `--config.validation`.
    """
    config = configs.apply_kind(configs.default(), kind)
    config.dataset, config.image_size = dataset, image_size
    config.translations.padding = 4
    config.model.stage_sizes, config.model.width = (3, 3, 3), 16
    config.batch_size, config.epochs = 512, 200
    config.learning_rate = 5e-3 if kind == 'conv' else 5e-4
    config.weight_decay = 1e-2
    # Fewer and larger steps than the default: 2 % of the deviations stay where a neuron
    # has 576 weights, and less elsewhere.
    config.sleep.hebbian.steps, config.sleep.hebbian.learning_rate = 40, 0.17
    return config


def small(dataset: str, image_size: int, kind: str, rates: Mapping[str, float]) -> ConfigDict:
    """The same on a small budget: a ResNet-8, a stem of stride 2, 30 epochs in batches of 100.

    rates: of kinds; kinds that sleep have that of their pools, `tiled` or `joined`. With joined
    pools the momentum is higher, which suits a sleep after every tenth step.
    """
    config = table1(dataset, image_size, kind)
    config.model.stage_sizes, config.model.stem = (1, 1, 1), 'strided'
    config.batch_size, config.epochs, config.evaluate_every = 100, 30, 5
    config.learning_rate = rates[kind if kind in rates else config.pools.kind]
    if config.pools.kind == 'joined':
        config.momentum = 0.97
    return config


def every_step(tiled: float, joined: float) -> dict[str, dict[str, Any]]:
    """Fields of the rows that sleep after every step: their rates, and the default momentum."""
    return {
        f'lc_{rule}1{pools}': {'learning_rate': rate, 'momentum': 0.9}
        for rule in ('mean', 'hebbian')
        for pools, rate in (('', tiled), ('_joined', joined))
    }
