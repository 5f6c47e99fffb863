"""Settings shared by the configs for the paper's Table 1: ResNet-20, AdamW, 200 epochs."""

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
