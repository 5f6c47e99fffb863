"""Handwritten digits somewhere on a 16×16 canvas: the paper's effect on a laptop, in seconds.

    python -m experiments.train --config=experiments/configs/digits.py:lc_hebbian_joined \\
        --workdir=runs/digits

`make demo` trains five kinds.
"""

from lcn_jax.training import config as configs


def get_config(kind: str = 'lc_hebbian'):
    config = configs.apply_kind(configs.default(), kind)
    config.dataset = 'digits'
    config.image_size = 16
    if kind == 'lc_translations':
        config.translations.padding = 2
        config.translations.repetitions = 2  # half of the paper's fewest, to be quick
    config.model.stage_sizes = (1, 1)
    config.model.width = 8
    config.batch_size = 60
    config.epochs = 24
    # Chosen on held-out training images (`experiments/results/ablation/README.md`).
    config.learning_rate = 2e-2 if kind == 'conv' else 1e-2 if config.sleep.full_step else 5e-3
    config.log_every = 10  # at every sleep, to see it in the weight deviation
    # Few large steps do here what a hundred of the default's do: 0.2 % of the deviations stay.
    config.sleep.hebbian.steps, config.sleep.hebbian.learning_rate = 20, 0.4
    return config
