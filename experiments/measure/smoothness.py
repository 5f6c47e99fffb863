"""How smooth the sheets of a finished run are: by weights, and by maps of what neurons prefer."""

import pathlib
from functools import partial
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from experiments.measure import responses
from lcn_jax.files import write_arrays
from lcn_jax.layer.each_local import each_local
from lcn_jax.layer.local_parameters import kernels, name_of
from lcn_jax.learning.penalties import sheet, smoothness
from lcn_jax.trained import maps
from lcn_jax.trained.load import Trained, load

MAPS = 'maps.npz'
WAVELENGTHS, ANGLES, PHASES = (4.0, 8.0), 8, 8


def of_workdir(workdir: str) -> dict[str, dict[str, Any]]:
    """How smooth the layers of a run are, and writes their maps into WORKDIR/maps.npz.

    Returns:
      'cosines': by kernel, the mean cosine between the weights of neighbours.
      'orientation', 'class': by layer, {'neighbours': the share of neighbours that prefer the same,
        'any': that of all pairs}. An orientation is one of eight.
    """
    network = load(workdir)
    layers = responses.layers_with_rows(network)
    by_layer: dict[str, dict[str, np.ndarray]] = responses.orientations(
        network, layers, WAVELENGTHS, ANGLES, PHASES
    )
    for layer, moments in responses.moments(network, layers).items():
        by_layer[layer]['preferred'] = maps.tuning(moments)['preferred']
    write_arrays(pathlib.Path(workdir) / MAPS, flatten_dict(by_layer, sep='/'))
    return {
        'cosines': cosines(network),
        'orientation': {a: alike(maps.eighths(m['preference'])) for a, m in by_layer.items()},
        'class': {a: alike(m['preferred']) for a, m in by_layer.items()},
    }


def read(workdir: pathlib.Path, layer: str) -> dict[str, np.ndarray]:
    """The map of orientations of a layer, (H, W, O) by name, that `of_workdir` wrote."""
    with np.load(workdir / MAPS) as arrays:
        return {name: arrays[f'{layer}/{name}'] for name in ('preference', 'strength')}


def alike(kinds: np.ndarray) -> dict[str, float]:
    return dict(zip(('neighbours', 'any'), maps.alike(sheet(kinds))))


def cosines(network: Trained) -> dict[str, float]:
    """By kernel, the mean cosine between neighbours, of which the smoothness penalty is made."""
    penalty: Any = partial(smoothness, border='separate', circular=True, by_direction=True)

    @jax.jit
    def penalties(params):
        return each_local(
            lambda number, local, kernel, bias: penalty(kernel, bias, local),
            kernels(network.grids),
            params,
            beside='bias',
        )

    found = penalties(network.variables['params'])
    return {name_of(path[:-1]): 1 - 2 * float(value) for path, value in found.items()}
