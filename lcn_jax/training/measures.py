"""What a run measures beside its training: how alike weights are, and accuracy on other images.

`similarity` is written for one device and wrapped by `parallel.per_device`; the others run on the
host and return parts of a record.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lcn_jax.sleep import similarity as alike
from lcn_jax.training import inputs, parallel
from lcn_jax.training.metrics import Sums
from lcn_jax.training.state import TrainState

if TYPE_CHECKING:
    from lcn_jax.training.experiment import Experiment


def similarity(
    state: TrainState, *, grids: Mapping, border: str, penalty: Callable | None
) -> dict[str, Any]:
    """weight_snr, the mean over layers; weight_deviation, of the network; penalty, if there is one.

    Without what has no meaning: a network without locally connected layers has neither of the first
    two, one without two neurons in a pool has no SNR.
    """
    snrs = [of_layer.mean() for of_layer in alike.layer_snrs(state.params, grids, border).values()]
    found = {'weight_snr': sum(snrs) / len(snrs)} if snrs else {}
    if grids:
        found['weight_deviation'] = alike.network_deviation(state.params, grids, border)
    if penalty is not None:
        found['penalty'] = penalty(state.params)
    return found


def weights(experiment: 'Experiment', state: TrainState) -> dict[str, Any]:
    """'weight_snr' and 'weight_deviation', None for a network without local kernels; 'penalty'.

    The SNR of weights that are equal, which is infinite, is None, too.
    """
    found = parallel.first(experiment.similarity(state))
    none = {'weight_snr': None, 'weight_deviation': None}
    measured = none | {name: float(value) for name, value in found.items()}
    return measured | ({'weight_snr': None} if measured['weight_snr'] == math.inf else {})


def weights_before_sleep(experiment: 'Experiment', state: TrainState) -> dict[str, Any]:
    """The same, with the suffix `_before_sleep`: for a step that ends in a sleep."""
    return {f'{name}_before_sleep': value for name, value in weights(experiment, state).items()}


def evaluation(
    experiment: 'Experiment', state: TrainState, images: inputs.Input
) -> dict[str, float]:
    """Metrics of the images kept for evaluation, each counted once."""
    return evaluated(total(experiment.evaluate, state.variables, images), experiment.config)


def total(program: Callable, variables: Any, images: inputs.Input) -> Any:
    """The sum of `program(variables, pixels)` over the images kept for evaluation."""
    of_pixels = (parallel.first(program(variables, pixels)) for pixels in images.evaluate())
    return functools.reduce(functools.partial(jax.tree.map, np.add), of_pixels)


def evaluated(sums: Sums, config: ConfigDict) -> dict[str, float]:
    """Means under the names of evaluation metrics; see `evaluated_split`."""
    return {f'{evaluated_split(config)}_{name}': value for name, value in sums.means().items()}


def evaluated_split(config: ConfigDict) -> str:
    """The prefix of the names of evaluation metrics: 'validation' or 'test'."""
    return 'validation' if config.validation else 'test'


def training(sums: Sums) -> dict[str, float]:
    """Means since the last record, under the names of training metrics."""
    return {f'train_{name}': value for name, value in sums.means().items()}
