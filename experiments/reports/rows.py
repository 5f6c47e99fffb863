"""The rows of `experiments.table`, and which kind of network and fields of the config each is."""

import dataclasses
from typing import Any

from experiments.reports.style import COLOURS


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table: its label, the kind of network, fields of the config, and a colour."""

    label: str
    kind: str
    fields: dict[str, Any]
    colour: str


# The rows of the paper's Table 1. ws(n) is a sleep after every n-th step, by averaging or by the
# Hebbian rule.
PAPER = {
    'conv': Row('conv', 'conv', {}, COLOURS['conv']),
    'lc': Row('LC', 'lc', {}, COLOURS['lc']),
    **{
        f'lc_reps{n}': Row(
            f'LC, {n} reps',
            'lc_translations',
            {'translations.repetitions': n},
            COLOURS['translations'],
        )
        for n in (4, 8, 16)
    },
    **{
        f'lc_{rule}{n}': Row(
            f'LC, ws({n}), {name}', f'lc_{rule}', {'sleep.every': n}, COLOURS[rule]
        )
        for rule, name in (('mean', 'mean'), ('hebbian', 'Hebbian'))
        for n in (1, 10, 100)
    },
}

# The same sleeps with one pool for all positions of a layer.
JOINED = {
    f'lc_{rule}{n}_joined': Row(
        f'LC, ws({n}), {name}, joined pools',
        f'lc_{rule}_joined',
        {'sleep.every': n},
        COLOURS[f'{rule}_joined'],
    )
    for rule, name in (('mean', 'mean'), ('hebbian', 'Hebbian'))
    for n in (1, 10, 100)
}

# Penalties while awake. The rate of the deviation's is the best of a grid on held-out images.
DEVIATION = {'sleep.pools': 'joined', 'model.init': 'common', 'learning_rate': 4e-2}
PENALTIES = {
    **{
        f'lc_smoothness{weight}': Row(
            f'LC, smoothness, weight {weight}',
            'lc',
            {'penalty.name': 'smoothness', 'penalty.weight': float(weight)},
            COLOURS['penalty'],
        )
        for weight in (1, 10)
    },
    **{
        f'lc_deviation{weight}': Row(
            f'LC, deviation, weight {weight}',
            'lc',
            {'penalty.name': 'deviation', 'penalty.weight': float(weight)} | DEVIATION,
            COLOURS['penalty'],
        )
        for weight in (3, 10, 30)
    },
}

# Neurons that see the whole image. Rate and lasso were chosen on held-out images.
WHOLE_IMAGE = {'model.name': 'experiments.models.s_fc:s_fc', 'weight_decay': 0.0, 'epochs': 100}
BETA_LASSO = {
    f's_fc_{optimizer}': Row(
        f'S-fc, {name}',
        'lc',
        {'optimizer': optimizer, 'learning_rate': 0.1, 'lasso': 3e-4} | WHOLE_IMAGE,
        COLOURS['lc'],
    )
    for optimizer, name in (('sgd', 'SGD'), ('beta_lasso', 'β-LASSO'))
}

# Mechanisms of the literature: docs/laboratory.md.
LABORATORY: dict[str, Row] = PENALTIES | BETA_LASSO

ROWS = PAPER | JOINED | LABORATORY
