"""One colour for each kind of network in all pictures, and how tables look."""

import statistics
from collections.abc import Sequence

LETTER = 0.075  # width of one in a picture, in inches

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


def table(columns: list[str], rows: list[list]) -> str:
    """A Markdown table, numbers to the right."""
    align = ['---'] + ['---:'] * (len(columns) - 1)
    return '\n'.join(f'| {" | ".join(map(str, row))} |' for row in (columns, align, *rows))


def mean_and_std(mean: float, std: float | None, digits: int = 1) -> str:
    """'79.5 ± 0.2', and the mean alone without a standard deviation."""
    return f'{mean:.{digits}f}' if std is None else f'{mean:.{digits}f} ± {std:.{digits}f}'


def cell(values: Sequence[float]) -> str:
    """Mean ± standard deviation of a sample; '' for none, and no deviation for one."""
    if not values:
        return ''
    std = statistics.stdev(values) if len(values) > 1 else None
    return mean_and_std(statistics.mean(values), std)


def bounds(interval: Sequence[float]) -> str:
    """'[0.419, 0.489]'."""
    low, high = interval
    return f'[{low:.3f}, {high:.3f}]'
