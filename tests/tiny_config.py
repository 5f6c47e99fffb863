"""A config file as those of `experiments/configs`, for networks that train in a second."""

from lcn_jax.training import config as configs


def get_config(kind: str = 'lc'):
    config = configs.default()
    config.model.stage_sizes, config.model.width = (), 2  # the stem and the readout
    config.image_size = 8
    config.translations.padding = 1 if kind == 'lc_translations' else 0
    config.batch_size, config.epochs = 48, 1
    config.learning_rate = 5e-3
    config.log_every = 5
    configs.apply_kind(config, kind)
    if kind == 'lc_translations':
        config.translations.repetitions = 2
    return config
