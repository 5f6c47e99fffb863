"""The kinds of network: names for points on the axes connectivity, translations and sleep.

A kind is the same in every config file. Datasets differ in sizes and rates only.
"""

from ml_collections import ConfigDict

from lcn_jax.errors import UsageError

LOCAL = {'connectivity': 'lc'}

# The paper's. Their sleeps share weights and nothing else, in the paper's tiled pools.
PAPER = {
    'conv': {},
    'lc': LOCAL,
    'lc_translations': LOCAL | {'translations.repetitions': 4},
    'lc_hebbian': LOCAL | {'sleep.rule': 'hebbian'},
    'lc_mean': LOCAL | {'sleep.rule': 'mean'},
    'lc_exact': LOCAL | {'sleep.rule': 'exact'},
    'lc_circuit': LOCAL | {'sleep.rule': 'circuit'},
}

# What makes a network with rare sleeps learn; docs/method.md explains it.
RARE_SLEEP = {'model.init': 'common', 'sleep.share_moments': True, 'sleep.full_step': True}
PRESETS = {
    f'lc_{rule}_{pools}': LOCAL | RARE_SLEEP | {'sleep.rule': rule, 'pools.kind': pools}
    for rule in ('mean', 'hebbian')
    for pools in ('tiled', 'joined')
}

KINDS = PAPER | PRESETS


def apply_kind(config: ConfigDict, kind: str) -> ConfigDict:
    """Applies the settings of a kind to `config`; UsageError lists the known kinds."""
    if kind not in KINDS:
        raise UsageError(f'unknown kind {kind!r}; known: {", ".join(KINDS)}.')
    config.update_from_flattened_dict(KINDS[kind])
    return config
