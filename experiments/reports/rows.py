"""The rows of `experiments.table`, and which kind of network and fields of the config each is.

A row is the same network with every config file, as a kind is: `lc_mean10` is the paper's on digits
as on CIFAR-10. On digits it used to be what `lc_mean10_tiled` is everywhere now; runs and results
from that time are described by `row_of`. How it learns best, such as its rate, depends on the data,
so that is in `ROWS` of a config file; a row that is not there has the rate of its kind.
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

# Penalties while awake.
DEVIATION = {'pools.kind': 'joined', 'model.init': 'common'}
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

# Neurons that see the whole image. The update of their paper has no weight decay.
WHOLE_IMAGE = {'model.name': 'experiments.models.s_fc:s_fc', 'weight_decay': 0.0}
BETA_LASSO = {
    f's_fc_{optimizer}': Row(
        f'S-fc, {name}', 'lc', {'optimizer': optimizer} | WHOLE_IMAGE, COLOURS['lc']
    )
    for optimizer, name in (('sgd', 'SGD'), ('beta_lasso', 'β-LASSO'))
}

# A few kernels for a layer, by connectivity and by sleep.
LOW_RANK = {
    **{
        f'low_rank{rank}': Row(
            f'low rank {rank}',
            'lc',
            {'connectivity': 'low_rank', 'model.rank': rank},
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
SGD = {'optimizer': 'sgd', 'pools.kind': 'joined', 'model.init': 'common'}
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


def _with(row: str, words: str, fields: dict[str, Any]) -> Row:
    """A row of the paper or of the presets, with more fields, and words for them."""
    known = (PAPER | PRESETS)[row]
    return dataclasses.replace(known, label=f'{known.label}, {words}', fields=known.fields | fields)


JOINED = ('lc_mean1_joined', 'lc_mean10_joined')

# Networks that share less while awake: BatchNorm of each neuron's own, or biases in its place.
NORM = {
    f'{row}_{norm}': _with(row, words, {'model.norm': norm})
    for norm, words, rows in (
        ('local', 'local BatchNorm', ('lc', *JOINED, 'lc_hebbian10_joined')),
        ('none', 'no BatchNorm', ('conv', 'lc', *JOINED, 'lc_hebbian10_joined')),
    )
    for row in rows
}

# Errors that reach hidden layers through random weights, or not at all, with and without sleep; and
# feedback kernels that sleep, too.
FEEDBACK = {
    f'{row}_{rule}': _with(row, words, {'feedback': rule})
    for rule, words, rows in (
        ('alignment', 'feedback alignment', ('conv', 'lc', *JOINED)),
        ('direct', 'direct feedback', ('conv', 'lc', *JOINED)),
        ('readout', 'only the readout learns', ('conv', 'lc')),
    )
    for row in rows
} | {
    f'{row}_alignment_asleep': _with(
        row,
        'feedback alignment, feedback sleeps',
        {'feedback': 'alignment', 'sleep.feedback': True},
    )
    for row in JOINED
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
