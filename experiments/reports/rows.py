"""The rows of `experiments.table`, and which kind of network and fields of the config each is.

A row is the same with every config file, as a kind is: `lc_mean10` is the paper's network on digits
as on CIFAR-10. On digits it used to be what `lc_mean10_tiled` is everywhere now; runs and results
from that time are described by `row_of`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

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

# The same sleeps with one initial kernel, shared moments and full steps, in the paper's pools and
# in one pool for all positions of a layer.
PRESETS = {
    f'lc_{rule}{n}_{pools}': Row(
        f'LC, ws({n}), {name}, {words}',
        f'lc_{rule}_{pools}',
        {'sleep.every': n},
        COLOURS[f'{rule}_{pools}'],
    )
    for pools, words in (('tiled', 'tiled pools, full steps'), ('joined', 'joined pools'))
    for rule, name in (('mean', 'mean'), ('hebbian', 'Hebbian'))
    for n in (1, 10, 100)
}

# Penalties while awake. The rate of the deviation's is the best of a grid on held-out images.
DEVIATION = {'pools.kind': 'joined', 'model.init': 'common', 'learning_rate': 4e-2}
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

# A few kernels for a layer, by connectivity and by sleep.
LOW_RANK = {
    **{
        f'low_rank{rank}': Row(
            f'low rank {rank}',
            'lc',
            # The rate was chosen on held-out digits, for both ranks together.
            {'connectivity': 'low_rank', 'model.rank': rank, 'learning_rate': 5e-3},
            COLOURS['low_rank'],
        )
        for rank in (2, 4)
    },
    **{
        f'lc_low_rank{rank}_joined': Row(
            f'LC, ws(10), rank {rank}, joined pools',
            'lc_mean_joined',
            {'sleep.rule': 'low_rank', 'sleep.low_rank.rank': rank},
            COLOURS['truncated'],
        )
        for rank in (2, 4)
    },
}

# A convolution that becomes locally connected after an epoch: by SGD, with a sleep after every step
# until then, it is one step by step.
SGD = {
    'optimizer': 'sgd',
    'learning_rate': 5e-2,
    'pools.kind': 'joined',
    'model.init': 'common',
}
LC_SGD = {'lc_sgd': Row('LC by SGD', 'lc', SGD, COLOURS['relaxed'])}
ALIKE = SGD | {'sleep.every': 1, 'sleep.share_moments': True, 'sleep.full_step': False}
RELAXED = {
    **{
        f'relax{epoch}': Row(
            f'conv, LC after epoch {epoch}',
            'lc_mean_joined',
            ALIKE | {'sleep.until': epoch},
            COLOURS['relaxed'],
        )
        for epoch in (1, 3, 6, 12, 18)
    },
    'relax_never': Row('conv by SGD', 'lc_mean_joined', ALIKE, COLOURS['relaxed']),
}

# Networks that share less while awake: BatchNorm of each neuron's own, or biases in its place. The
# rates were chosen on held-out digits; the Hebbian sleep has that of the mean.
NORM_RATES = {
    'local': {'lc': 2e-2, 'lc_mean1_joined': 4e-2, 'lc_mean10_joined': 1e-2},
    'none': {'conv': 1e-2, 'lc': 1e-2, 'lc_mean1_joined': 2e-2, 'lc_mean10_joined': 1e-2},
}
NORM_NAMES = {'local': 'local BatchNorm', 'none': 'no BatchNorm'}
NORM = {
    f'{row}_{norm}': Row(
        f'{known.label}, {NORM_NAMES[norm]}',
        known.kind,
        known.fields | {'model.norm': norm, 'learning_rate': rate},
        known.colour,
    )
    for norm, rates in NORM_RATES.items()
    for row, rate in (rates | {'lc_hebbian10_joined': rates['lc_mean10_joined']}).items()
    for known in [(PAPER | PRESETS)[row]]
}

# Errors that reach hidden layers through random weights, or not at all, with and without sleep. The
# rates were chosen on held-out digits.
FEEDBACK_RATES = {
    'alignment': {'conv': 4e-2, 'lc': 1e-2, 'lc_mean1_joined': 2e-2, 'lc_mean10_joined': 2e-2},
    'direct': {'conv': 8e-2, 'lc': 4e-2, 'lc_mean1_joined': 4e-2, 'lc_mean10_joined': 2e-2},
    'readout': {'conv': 16e-2, 'lc': 4e-2},
}
FEEDBACK_NAMES = {
    'alignment': 'feedback alignment',
    'direct': 'direct feedback',
    'readout': 'only the readout learns',
}
FEEDBACK = {
    f'{row}_{rule}': Row(
        f'{known.label}, {FEEDBACK_NAMES[rule]}',
        known.kind,
        known.fields | {'feedback': rule, 'learning_rate': rate},
        known.colour,
    )
    for rule, rates in FEEDBACK_RATES.items()
    for row, rate in rates.items()
    for known in [(PAPER | PRESETS)[row]]
}

# The same with feedback kernels that sleep, too, with rates of their own, chosen in the same way.
FEEDBACK |= {
    f'{row}_alignment_asleep': dataclasses.replace(
        FEEDBACK[f'{row}_alignment'],
        label=f'{PRESETS[row].label}, feedback alignment, feedback sleeps',
        fields=FEEDBACK[f'{row}_alignment'].fields
        | {'sleep.feedback': True, 'learning_rate': rate},
    )
    for row, rate in {'lc_mean1_joined': 4e-2, 'lc_mean10_joined': 2e-2}.items()
}

# Mechanisms of the literature: docs/laboratory.md.
LABORATORY = PENALTIES | BETA_LASSO | LOW_RANK | LC_SGD | RELAXED | NORM | FEEDBACK

ROWS = PAPER | PRESETS | LABORATORY


def label_of(name: str) -> str:
    """The label of the row with this name, or the name itself if it is no row's."""
    return ROWS[name].label if name in ROWS else name


def config_of(row: str, file: Mapping[str, Any], given: Mapping[str, Any]) -> ConfigDict:
    """The config of a row.

    file: what a config file defines: get_config(kind), and perhaps ROWS, the fields in which rows
    differ from their kinds, by row. given: the fields that come before those of the file. Fields
    have their names with dots.
    """
    settings = ROWS[row]
    config = file['get_config'](settings.kind)
    for fields in (file.get('ROWS', {}).get(row, {}), given):
        config.update(unflatten_dict(fields, sep='.'))
    config.update_from_flattened_dict({'translations.repetitions': 1} | settings.fields)
    return config


def row_of(name: str, config: Mapping[str, Any]) -> str:
    """The row of a run in a folder of this name: the one whose settings its config has.

    config: as in config.json of a run, of this version or an earlier one.
    """
    preset = f'{name}_tiled'
    takes_full_steps = config.get('sleep', {}).get('full_step', False)
    return preset if preset in ROWS and takes_full_steps else name
