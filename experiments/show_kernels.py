"""Draws the kernels of a layer before and after a sleep, or a map of what its neurons prefer.

    python -m experiments.show_kernels --workdir=runs/digits --layer=stem_conv --out=kernels.png

Takes a checkpoint and puts the network to sleep once, by the run's own sharing rule (or by `mean`,
if the run has none). Above: the kernels of one channel at positions of one pool, before and after.
Below: how far the weights of every position are from the mean of its pool (root mean square over
all channels). Right after a sleep little is left to share: --checkpoint chooses another step.

    python -m experiments.show_kernels --workdir=runs/digits --layer=stem --map=preferred \\
        --out=map.png

With --map, the layer is any activation (N, H, W, O) of the network, for example that after a ReLU.
The picture is its sheet of neurons, with the class that each neuron prefers, the entropy of its
mean responses to the classes, or the d' of the preferred class (`lcn_jax/trained/maps.py`; for all
layers at once, and more: experiments.maps). The images
are those that the run was evaluated on.
"""

from typing import Any

import flax.traverse_util
from absl import flags
from matplotlib.figure import Figure

from experiments.common import cli, pictures, trained
from experiments.measure import responses
from experiments.reports import kernels, sheets
from lcn_jax.errors import UsageError
from lcn_jax.files import local_folder
from lcn_jax.layer import local_parameters
from lcn_jax.layer.local_parameters import by_path
from lcn_jax.learning.penalties import sheet
from lcn_jax.trained import maps
from lcn_jax.training import parallel, train
from lcn_jax.training.experiment import Experiment

LAYER = flags.DEFINE_string(
    'layer',
    None,
    'A locally connected layer, for example stem_conv; with --map, any activation.',
    required=True,
)
OUT = flags.DEFINE_string('out', None, 'The PNG to write.', required=True)
CHANNEL = flags.DEFINE_integer('channel', 0, 'Input channel to show.', lower_bound=0)
FEATURE = flags.DEFINE_integer('feature', 0, 'Output feature to show.', lower_bound=0)
MAP = flags.DEFINE_enum('map', None, list(maps.TUNING), 'Draw this map of the layer instead.')


def main(argv):
    del argv
    figure = draw_map(MAP.value) if MAP.value else draw_kernels()
    pictures.write(figure, local_folder('--out', OUT.value))


def draw_map(name: str) -> Figure:
    network = trained.load()
    found = maps.tuning(responses.moments(network, [LAYER.value])[LAYER.value])
    near, by_chance = maps.alike(sheet(found['preferred']))
    print(f'neighbours that prefer the same class: {near:.1%}; any two neurons: {by_chance:.1%}')
    return sheets.draw({f'{LAYER.value} at step {network.step}': found[name]}, name)


def draw_kernels() -> Figure:
    config, experiment, step, state = trained.restore_local()
    if config.sleep.rule == 'none':
        config.sleep.rule, config.sleep.full_step, config.shard_kernels = 'mean', False, False
        experiment = Experiment.create(config)
    grids = by_path(local_parameters.kernels(experiment.network.grids))
    path = (*LAYER.value.split('/'), 'kernel')
    if path not in grids:
        known = ', '.join('/'.join(path[:-1]) for path in grids)
        raise UsageError(f'no locally connected layer is called {LAYER.value!r}; known: {known}.')

    sleep_key = train.keys(config.seed)[2]
    slept = parallel.first(experiment.sleep(parallel.replicate(state), sleep_key))
    flat: list[dict[tuple[str, ...], Any]] = [
        flax.traverse_util.flatten_dict(state.params) for state in (state, slept)
    ]
    before, after = (kernels_of[path] for kernels_of in flat)
    try:
        return kernels.draw(
            before,
            after,
            grids[path],
            border=config.pools.border,
            channel=CHANNEL.value,
            feature=FEATURE.value,
            title=f'{LAYER.value} at step {step}, sleep by {config.sleep.rule}',
        )
    except ValueError as e:
        raise UsageError(f'{LAYER.value} cannot be shown: {e}') from None


if __name__ == '__main__':
    cli.run(main)
