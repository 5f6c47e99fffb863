"""Weights of an All-TNN in Keras 2 -> the variables of `lcn_jax.networks.all_tnn.AllTNN`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lcn_jax.convert.keras import from_keras
from lcn_jax.errors import UsageError


def all_tnn_from_keras(
    weights: Mapping[str, Sequence[Any]], variables: Mapping[str, Any]
) -> dict[str, Any]:
    """The variables with these weights.

    Args:
      weights: of each layer that has some, in the order of computation, as `keras_weights` reads
        them: of a local layer (positions, patch, features) and (H, W, features), of a convolution
        or the readout kernel and bias, of a norm gamma and beta, and the mean and variance of
        BatchNorm.
      variables: of the network, or their shapes: `model.init`, `Network.variables`.

    Returns:
      'params' and, with BatchNorm, 'batch_stats', of NumPy arrays; dtypes stay.

    Raises:
      UsageError: the layers of the two networks, or their shapes, are not the same.
    """
    own = variables['params']
    in_order = [f'{kind}{i}' for i in range(1, len(own) + 1) for kind in ('conv', 'norm')]
    names = [name for name in (*in_order, 'logits') if name in own]
    if len(weights) != len(names):
        raise UsageError(
            f'there are weights of {", ".join(weights)}, but the network has {", ".join(names)}: '
            'make config.model as the network in Keras was.'
        )
    found: dict[str, Any] = {'params': {}, 'batch_stats': {}}
    for name, (theirs, arrays) in zip(names, weights.items()):
        fields = ('scale', 'bias', 'mean', 'var') if 'norm' in name else ('kernel', 'bias')
        values = dict(zip(fields, map(np.asarray, arrays)))
        shape = np.shape(own[name].get('kernel', ()))
        if len(shape) == 6 and values['kernel'].ndim == 3:
            values = _local(arrays, shape, theirs)
        statistics = {key: values.pop(key) for key in ('mean', 'var') if key in values}
        found['params'][name] = values
        if statistics:
            found['batch_stats'][name] = statistics
        _check(values, own[name], theirs, name)
        _check(statistics, variables.get('batch_stats', {}).get(name, {}), theirs, name)
    return found if found['batch_stats'] else {'params': found['params']}


def _local(arrays: Sequence[Any], shape: tuple[int, ...], theirs: str) -> dict[str, np.ndarray]:
    """The parameters of a layer whose kernel has this shape; the stride does not matter."""
    height, width, kh, kw, channels, features = shape
    config = dict(
        filters=features,
        kernel_size=(kh, kw),
        strides=(1, 1),
        padding='valid',
        data_format='channels_last',
        use_bias=len(arrays) > 1,
        implementation=1,
    )
    try:
        return from_keras(config, arrays, (None, height + kh - 1, width + kw - 1, channels))
    except ValueError as error:
        raise UsageError(f'{theirs} does not fit: {error}') from None


def _check(values: Mapping, own: Mapping, theirs: str, name: str) -> None:
    found, expected = ({key: np.shape(value) for key, value in of.items()} for of in (values, own))
    if found != expected:
        raise UsageError(f'{theirs} of Keras has {found}, {name} of the network {expected}.')
