"""Penalties on local weights while awake: what is added to the loss that training descends.

    loss = cross-entropy + weight · schedule(t) · (sum over layers of factor · penalty)

A penalty is a pure function `(kernel, bias, neurons, *, border, **options) -> scalar` of a kernel
(*output, *kernel, C // groups, O), float32 at least, and a bias (*output, O), (O,) or None.
`smoothness` makes neighbours on a sheet of neurons alike, as in the All-TNN (Lu et al., "End-to-end
topographic networks as models of cortical map formation and human visual behaviour", 2023).
`deviation` makes the members of a pool alike, as a sleep does.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcn_jax import plugins
from lcn_jax.layer.arguments import check_choice
from lcn_jax.layer.each_local import each_local
from lcn_jax.layer.local_parameters import by_path, kernels, name_of
from lcn_jax.sleep.pools import Neurons, Pools, pool_sizes

Penalty = Callable[..., jax.Array]


def sheet(values: Any) -> Any:
    """The neurons of a layer on one sheet: (H, W, O, ...) -> (H·a, W·b, ...), of NumPy or JAX.

    The O features of a position are a sheet of a rows and b columns, row by row, and the sheets of
    neighbouring positions lie side by side. a is the largest divisor of O with a ≤ b: the square
    root of O, if O is a square.
    """
    height, width, features, *rest = values.shape
    rows = max(a for a in range(1, math.isqrt(features) + 1) if features % a == 0)
    columns = features // rows
    apart = values.reshape(height, width, rows, columns, *rest).swapaxes(1, 2)
    return apart.reshape(height * rows, width * columns, *rest)


def smoothness(
    kernel: jax.Array,
    bias: jax.Array | None,
    neurons: Neurons,
    *,
    border: str,
    circular: bool = False,
    neighbours: int = 4,
    by_direction: bool = False,
) -> jax.Array:
    """Mean of (1 - cosine) / 2 between neighbours on the `sheet`: 0 if all are alike, 1 if opposed.

    The cosine is that of the weights and, if there is one, the bias of a neuron and its right or
    lower neighbour, tap by tap: receptive fields move along. It is 0 for weights that are all 0.
    There are no pools: `border` is unused. The published loss is `circular` and `by_direction`.

    Args:
      circular: the last row and column have the first as neighbours, also diagonally.
      neighbours: 4, or 8 with the diagonal ones.
      by_direction: the mean over the pairs in a direction (lower, right, and both diagonals), then
        over the directions; else the mean over all pairs.

    Raises:
      ValueError: the layer is not two-dimensional, or the number of neighbours is another.
    """
    del border
    if neurons.dimensions != 2:
        raise ValueError(f'smoothness needs layers of two dimensions, not {neurons.dimensions}.')
    check_choice(neighbours, tuple(DIRECTIONS), 'neighbours')
    features = kernel.shape[-1]
    weights_HWOK = kernel.reshape(*neurons.output_size, -1, features).swapaxes(2, 3)
    if bias is not None:
        of_positions = jnp.broadcast_to(bias, (*neurons.output_size, features))
        weights_HWOK = jnp.concatenate([weights_HWOK, of_positions[..., None]], axis=-1)
    squares = (weights_HWOK**2).sum(-1, keepdims=True)
    on_sheet = sheet(weights_HWOK / jnp.sqrt(jnp.where(squares > 0, squares, 1)))
    cosines = [
        (one * other).sum(-1).ravel()
        for direction in DIRECTIONS[neighbours]
        for one, other in [pairs(on_sheet, direction, circular)]
        if one.size
    ]
    if by_direction and cosines:
        return (1 - jnp.stack([of_pairs.mean() for of_pairs in cosines])).mean() / 2
    of_all = jnp.concatenate(cosines) if cosines else jnp.zeros(0)
    return (1 - of_all).sum() / (2 * max(1, of_all.size))


# Rows down and columns to the right of a neighbour, for each pair once, by the number of them.
DIRECTIONS = {4: ((0, 1), (1, 0)), 8: ((0, 1), (1, 0), (1, 1), (1, -1))}


def pairs(on_sheet: Any, direction: tuple[int, int], circular: bool = False) -> tuple[Any, Any]:
    """The neurons of a sheet (rows, columns, ...) that have a neighbour there, and that neighbour.

    direction: of `DIRECTIONS`. Arrays are of NumPy or JAX, and so are the results.
    """
    down, right = direction
    if circular:
        rows, columns = (np.arange(size) for size in on_sheet.shape[:2])
        return on_sheet, on_sheet[np.roll(rows, -down)][:, np.roll(columns, -right)]
    rows, columns = on_sheet.shape[:2]
    one = on_sheet[: rows - down, max(0, -right) : columns - max(0, right)]
    return one, on_sheet[down:, max(0, right) : columns + min(0, right)]


def deviation(
    kernel: jax.Array, bias: jax.Array | None, neurons: Neurons, *, border: str
) -> jax.Array:
    """Half the mean over a pool's members i of |w_i - m|², m their mean, summed over the pools.

    |·|² is over all weights of a position. The gradient by w_i is (w_i - m) / N in a pool of N, so
    pool means get no gradient. The gradient of the loss at one of N positions is of that order,
    too, so that one weight fits layers of all sizes; SGD multiplies both by N
    (`training/optimizer.py`), and a step takes away learning rate × weight of every deviation.
    Biases are free, as they are in a sleep. `border` is as in `pool_numbers`.
    """
    del bias
    from_mean = kernel - Pools.of(neurons, border).averaged(kernel)  # 0 outside of pools
    return (from_mean**2 / pool_sizes(neurons, border)).sum() / 2


PENALTIES: dict[str, Penalty] = {'smoothness': smoothness, 'deviation': deviation}


def resolve(name: str, options: Mapping[str, Any]) -> Penalty:
    """The penalty `name`, or 'package.module:function' for one's own, with its options set.

    Raises:
      ValueError: there is no such penalty, or it does not take these options.
    """
    known = ('none', *PENALTIES)
    penalty = PENALTIES[name] if name in PENALTIES else plugins.load(name, 'penalty', known)
    plugins.check_options(penalty, 3, options, f'penalty {name!r}')
    return partial(penalty, **options)


# The share of its weight that a penalty has at a fraction t of the training; the sigmoids are as
# steep as published.
SCHEDULES: dict[str, Callable[[Any], Any]] = {
    'constant': jnp.ones_like,
    'linear': lambda t: t,
    'sigmoid': lambda t: jax.nn.sigmoid(20 * (t - 0.5)),
    'decreasing_sigmoid': lambda t: jax.nn.sigmoid(20 * (0.5 - t)),
}


def total(
    params: Any, grids: Mapping, penalty: Penalty, factors: Sequence[float] = ()
) -> jax.Array:
    """The sum over the locally connected layers of `params`, and over the members of ensembles.

    factors: of each layer's penalty, in the order of the layers' paths; () for 1.

    The bias is what lies beside a kernel under the name 'bias'. If devices divide the kernels, each
    gathers them, one layer after the other, and once more for the gradients: those by its parts are
    sums over devices, as they are in the loss (`training/sharding.py`).

    Raises:
      ValueError: params and grids do not fit together, the penalty is not a scalar, or there is not
        a factor for each layer.
    """
    layers = kernels(grids)
    paths = list(by_path(layers))
    if factors and len(factors) != len(paths):
        names = ', '.join(name_of(path[:-1]) for path in paths)
        raise ValueError(f'there are {len(factors)} factors, but the layers are {names}.')

    def of_layer(number, local, kernel, bias):
        value = penalty(kernel.astype(jnp.promote_types(kernel.dtype, 'float32')), bias, local)
        if jnp.shape(value) != ():
            raise ValueError(f'the penalty has shape {jnp.shape(value)}; it must be a scalar.')
        return factors[number] * value if factors else value

    of_layers = each_local(of_layer, layers, params, beside='bias')
    return jnp.stack([v.sum() for v in of_layers.values()]).sum() if of_layers else jnp.zeros(())
