"""A picture of a layer's kernels before and after a sleep."""

import jax
import numpy as np
from matplotlib.figure import Figure

from lcn_jax.sleep.pools import Neurons, pool_numbers
from lcn_jax.sleep.similarity import deviation

POSITIONS = 8
DRAWN = 1e-3  # of the root mean square of the weights: deviations of that size can be seen


def draw(
    before: jax.Array,
    after: jax.Array,
    neurons: Neurons,
    *,
    border: str,
    channel: int = 0,
    feature: int = 0,
    title: str = '',
) -> Figure:
    """The picture for a layer's kernels (Ho, Wo, kh, kw, C // groups, O) before and after a sleep.

    Raises:
      ValueError: the layer is not two-dimensional, there is no such channel or feature, or no
        position is in a pool.
    """
    if neurons.dimensions != 2:
        raise ValueError(
            f'only two-dimensional kernels can be drawn, not those of size {neurons.kernel_size}.'
        )
    channels, features = before.shape[4:]
    if channel >= channels or feature >= features:
        raise ValueError(
            f'there is no channel {channel} of feature {feature}: the kernels have {channels} '
            f'channels and {features} features, counted from 0.'
        )
    positions = positions_of_a_pool(neurons, POSITIONS, border=border)
    figure = Figure(figsize=(9, 7), layout='constrained')
    figure.suptitle(title)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 4))[:, 0]
    _draw_kernels(above, [np.asarray(k)[..., channel, feature] for k in (before, after)], positions)
    above.suptitle(f'kernels of channel {channel}, feature {feature}, at positions of one pool')
    smallest = DRAWN * np.sqrt(np.mean(np.square(before)))
    deviations = [deviation(k, neurons, border=border) for k in (before, after)]
    _draw_deviations(below, deviations, smallest)
    below.suptitle('deviation from the mean of the pool')
    for ax in below.axes[:2]:
        ax.plot(*positions.T[::-1], 'o', mfc='none', mec='white', ms=5)
    return figure


def _draw_kernels(figure, kernels, positions):
    """A row of images for each of the two `kernels` (Ho, Wo, kh, kw)."""
    chosen = [kernel[tuple(positions.T)] for kernel in kernels]
    limit = np.abs(chosen).max()
    axes = figure.subplots(2, len(positions), squeeze=False)
    for row, name, images in zip(axes, ('before', 'after'), chosen):
        for ax, image in zip(row, images):
            shown = ax.imshow(image, cmap='RdBu_r', vmin=-limit, vmax=limit)
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(name)
    for ax, (i, j) in zip(axes[0], positions):
        ax.set_title(f'{i}, {j}', fontsize='medium')
    figure.colorbar(shown, ax=axes, label='weight', shrink=0.9)


def _draw_deviations(figure, deviations, smallest):
    """Two maps of `deviations` (Ho, Wo, O) in one colour scale, which ends at `smallest` or later.

    So the rounding errors that a sleep leaves are not drawn in full colour.
    """
    over_features = [np.sqrt((np.asarray(d) ** 2).mean(-1)) for d in deviations]
    axes = figure.subplots(1, 2)
    highest = max(np.nanmax(over_features[0]), smallest)
    for ax, name, image in zip(axes, ('before', 'after'), over_features):
        shown = ax.imshow(image, vmin=0, vmax=highest)
        ax.set_title(f'{name}: {np.nanmean(image):.2g} on average', fontsize='medium')
        ax.set(xlabel='column', ylabel='row')
    figure.colorbar(shown, ax=axes, label='deviation (units of the weights)', shrink=0.9)


def positions_of_a_pool(neurons: Neurons, count: int, *, border: str) -> np.ndarray:
    """(n, 2) int: rows and columns of n <= `count` positions, spread over the largest pool.

    n < count if the pool is smaller than that. `border` is as in `pool_numbers`.

    Raises:
      ValueError: no position is in a pool, because all of them reach into the padding.
    """
    pools = pool_numbers(neurons, border)
    if (pools < 0).all():
        raise ValueError('all positions reach into the padding, so none is in a pool.')
    members = np.argwhere(pools == np.bincount(pools[pools >= 0]).argmax())
    chosen = np.linspace(0, len(members) - 1, min(count, len(members)))
    return members[chosen.round().astype(int)]
