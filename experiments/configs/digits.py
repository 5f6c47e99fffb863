"""Handwritten digits somewhere on a 16×16 canvas: the paper's effect on a laptop, in seconds.

    python -m experiments.train --config=experiments/configs/digits.py:lc_hebbian_joined \\
        --workdir=runs/digits

`make demo` trains five kinds.
"""

from lcn_jax.training import config as configs

# Of rows of `experiments.table`. All but those by SGD were chosen on held-out training images
# (docs/laboratory.md; for feedback that sleeps `experiments/results/feedback/README.md`).
RATES = {
    **dict.fromkeys(('lc_deviation3', 'lc_deviation10', 'lc_deviation30'), 4e-2),
    **dict.fromkeys(('low_rank2', 'low_rank4'), 5e-3),
    **dict.fromkeys(('lc_sgd', *(f'relax{n}' for n in (1, 3, 6, 12, 18)), 'relax_never'), 5e-2),
    'lc_local': 2e-2,
    'lc_mean1_joined_local': 4e-2,
    'lc_mean10_joined_local': 1e-2,
    'lc_hebbian10_joined_local': 1e-2,  # that of the mean
    'conv_none': 1e-2,
    'lc_none': 1e-2,
    'lc_mean1_joined_none': 2e-2,
    'lc_mean10_joined_none': 1e-2,
    'lc_hebbian10_joined_none': 1e-2,  # that of the mean
    'conv_alignment': 4e-2,
    'lc_alignment': 1e-2,
    'lc_mean1_joined_alignment': 2e-2,
    'lc_mean10_joined_alignment': 2e-2,
    'conv_direct': 8e-2,
    'lc_direct': 4e-2,
    'lc_mean1_joined_direct': 4e-2,
    'lc_mean10_joined_direct': 2e-2,
    'conv_readout': 16e-2,
    'lc_readout': 4e-2,
    'lc_mean1_joined_alignment_asleep': 4e-2,
    'lc_mean10_joined_alignment_asleep': 2e-2,
}
# Of neurons that see the whole image; longer training shows more of how local they become.
S_FC = {'learning_rate': 0.1, 'lasso': 3e-4, 'epochs': 100}
ROWS = {row: {'learning_rate': rate} for row, rate in RATES.items()}
ROWS |= dict.fromkeys(('s_fc_sgd', 's_fc_beta_lasso'), S_FC)


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
