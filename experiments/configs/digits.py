"""Handwritten digits somewhere on a 16×16 canvas: the paper's effect on a laptop, in seconds.

    python -m experiments.train --config=experiments/configs/digits.py:lc_hebbian \\
        --workdir=runs/digits

`make demo` trains five kinds.
"""

from lcn_jax.training import config as configs


def get_config(kind: str = 'lc_hebbian'):
    config = configs.default()
    config.dataset = 'digits'
    config.image_size = 16
    config.translations.padding = 2 if kind == 'lc_translations' else 0
    config.model.stage_sizes = (1, 1)
    config.model.width = 8
    config.batch_size = 60
    config.epochs = 24
    config.learning_rate = 5e-3
    config.log_every = 10  # at every sleep, to see it in the weight SNR
    configs.apply_kind(config, kind)
    if kind == 'lc_translations':
        config.translations.repetitions = 2  # half of the paper's fewest, to be quick
    return config
