"""One colour for each kind of network in all pictures, and how tables show seeds and intervals."""

import statistics
from collections.abc import Sequence

COLOURS = {
    'conv': '#4c78a8',
    'lc': '#e45756',
    'translations': '#f2a541',
    'mean': '#72b7b2',
    'mean_tiled': '#519390',
    'mean_joined': '#2f6f6b',
    'hebbian': '#54a24b',
    'hebbian_tiled': '#388031',
    'hebbian_joined': '#1d5e18',
    'low_rank': '#b279a2',
    'truncated': '#6f3f66',
    'relaxed': '#9d755d',
    'penalty': '#d6719b',
}


def cell(values: Sequence[float]) -> str:
    """Mean ± standard deviation of a sample; '' for none, and no deviation for one."""
    if not values:
        return ''
    std = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.1f}{std}'


def bounds(interval: Sequence[float]) -> str:
    """'[0.419, 0.489]'."""
    low, high = interval
    return f'[{low:.3f}, {high:.3f}]'
