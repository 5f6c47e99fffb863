"""A config file as those of `experiments/configs`, for networks that train in a second."""

from experiments.configs import digits


def get_config(kind: str = 'lc'):
    config = digits.get_config(kind)
    config.model.stage_sizes, config.model.width = (), 2  # the stem and the readout
    config.image_size = 8
    config.translations.padding = 1 if kind == 'lc_translations' else 0
    config.batch_size, config.epochs = 48, 1
    config.log_every = 5
    return config
