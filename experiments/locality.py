"""How local the weights of a trained network are, and were before training.

    python -m experiments.locality --workdir=runs/s_fc

For each locally connected layer, prints the radius, in pixels, of the squared weights of its
neurons around their own centre (`measure/locality.py`): before training, at the checkpoint, and at
the checkpoint after the weights of each pixel have been shuffled over the neurons. The last column
is the share of weights that are not 0.
"""

import jax
import numpy as np

from experiments.common import cli, trained
from experiments.measure.locality import radius
from lcn_jax.layer.each_local import parts
from lcn_jax.layer.local_parameters import by_path, kernels, name_of
from lcn_jax.training import train


def main(argv):
    del argv
    config, experiment, step, state = trained.restore_local()
    fresh = jax.device_get(experiment.initial_state(train.keys(config.seed)[0]).params)
    print(f'radius of weights in pixels, before training and at step {step}\n')
    print(f'{"layer":<24}{"before":>9}{"after":>9}{"shuffled":>9}{"not 0":>9}')
    grids = kernels(experiment.network.grids)
    initial, trained_kernels = parts(fresh, grids), parts(state.params, grids)
    for path, local in by_path(grids).items():
        kernel = trained_kernels[path]
        radii = (
            radius(initial[path], local.grid),
            radius(kernel, local.grid),
            radius(kernel, local.grid, shuffled=np.random.default_rng(0)),
        )
        alive = np.count_nonzero(kernel) / kernel.size
        print(f'{name_of(path[:-1]):<24}' + ''.join(f'{r:>9.2f}' for r in radii) + f'{alive:>9.1%}')


if __name__ == '__main__':
    cli.run(main)
