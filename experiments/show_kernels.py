"""What a sleep does to the kernels of a layer, as a picture.

    python -m experiments.show_kernels --workdir=runs/digits --layer=stem_conv --out=kernels.png

Takes a checkpoint and puts it to sleep once, by the run's own rule (or `mean`, if it has none).
Above: the kernels of one channel at positions of one pool, before and after. Below: how far the
weights of every position are from the mean of its pool (root mean square over all channels). A
checkpoint that was written right after a sleep has little left to share: see `--checkpoint`.
"""

import os

import flax.traverse_util
import jax
import numpy as np
from absl import flags
from matplotlib.figure import Figure
from ml_collections import FrozenConfigDict

from experiments.common import cli
from lcn_jax import maps
from lcn_jax.errors import UsageError
from lcn_jax.grid import Grid
from lcn_jax.training import checkpoint, parallel, state, train

WORKDIR = flags.DEFINE_string('workdir', None, 'Folder that experiments.train wrote.')
LAYER = flags.DEFINE_string('layer', None, 'Which locally connected layer, stem_conv for example.')
OUT = flags.DEFINE_string('out', None, 'The PNG to write.')
CHECKPOINT = flags.DEFINE_string('checkpoint', 'latest', "'latest', 'best', or a step.")
CHANNEL = flags.DEFINE_integer('channel', 0, 'Input channel whose kernels to show.', lower_bound=0)
FEATURE = flags.DEFINE_integer('feature', 0, 'Output channel to show.', lower_bound=0)
flags.mark_flags_as_required(['workdir', 'layer', 'out'])

POSITIONS = 8


def main(argv):
    del argv
    config = checkpoint.read_config(WORKDIR.value)
    if config.connectivity != 'lc':
        raise UsageError(f'{WORKDIR.value} holds a convolutional network: nothing to share.')
    if config.sleep.rule == 'none':
        config.sleep.rule = 'mean'
    grids = state.grids(train.make_model(config), train.image_shape(config))
    path = (*LAYER.value.split('/'), 'kernel')
    layers = flax.traverse_util.flatten_dict(grids)
    if path not in layers:
        known = ', '.join('/'.join(path[:-1]) for path in layers)
        raise UsageError(f'no locally connected layer is called {LAYER.value!r}; known: {known}.')

    # Only the sleep is run, so the images need not be there.
    run = train.programs(FrozenConfigDict(config), examples=config.batch_size)
    with checkpoint.Checkpoints(WORKDIR.value, read_only=True) as checkpoints:
        step = checkpoints.find(CHECKPOINT.value)
        awake = checkpoints.restore(step, run.shapes).state
    slept = parallel.first(run.sleep(parallel.replicate(awake), train.keys(config)[2]))
    before, after = (flax.traverse_util.flatten_dict(s.params)[path] for s in (awake, slept))
    try:
        figure = draw(
            before,
            after,
            layers[path],
            border=config.sleep.border,
            channel=CHANNEL.value,
            feature=FEATURE.value,
            title=f'{LAYER.value} at step {step}, sleep by {config.sleep.rule}',
        )
    except ValueError as e:
        raise UsageError(f'{LAYER.value} cannot be shown: {e}') from None
    os.makedirs(os.path.dirname(os.path.abspath(OUT.value)), exist_ok=True)
    figure.savefig(OUT.value, dpi=130)
    print(f'{OUT.value} is written')


def draw(
    before: jax.Array,
    after: jax.Array,
    grid: Grid,
    *,
    border: str,
    channel: int = 0,
    feature: int = 0,
    title: str = '',
) -> Figure:
    """The picture for a layer's kernels (Ho, Wo, kh, kw, C // groups, O) before and after a sleep.

    Raises:
      ValueError: there is no such channel or feature, or no position is in a pool.
    """
    channels, features = before.shape[4:]
    if channel >= channels or feature >= features:
        raise ValueError(
            f'there is no channel {channel} of feature {feature}: the kernels have {channels} '
            f'channels and {features} features.'
        )
    positions = maps.positions_of_a_pool(grid, POSITIONS, border=border)
    figure = Figure(figsize=(9, 7), layout='constrained')
    figure.suptitle(title)
    above, below = figure.subfigures(2, 1, height_ratios=(3, 4))
    _draw_kernels(above, [np.asarray(k)[..., channel, feature] for k in (before, after)], positions)
    above.suptitle(f'kernels of channel {channel}, feature {feature}, at positions of one pool')
    _draw_deviations(below, [maps.deviation(k, grid, border=border) for k in (before, after)])
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


def _draw_deviations(figure, deviations):
    """Two maps of `deviations` (Ho, Wo, O) in one colour scale."""
    over_features = [np.sqrt((np.asarray(d) ** 2).mean(-1)) for d in deviations]
    axes = figure.subplots(1, 2)
    for ax, name, image in zip(axes, ('before', 'after'), over_features):
        shown = ax.imshow(image, vmin=0, vmax=np.nanmax(over_features[0]))
        ax.set_title(f'{name}: {np.nanmean(image):.2g} on average', fontsize='medium')
        ax.set(xlabel='column', ylabel='row')
    figure.colorbar(shown, ax=axes, label='deviation (units of the weights)', shrink=0.9)


if __name__ == '__main__':
    cli.run(main)
