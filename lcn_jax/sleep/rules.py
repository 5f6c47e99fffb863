"""The sharing rules: what makes the weights of a pool alike in the sleep phase.

While the network sleeps, lateral connections of the input make every k-th neuron equal: a pattern
of kh×kw×C values (or k×C, or kd×kh×kw×C) tiles the plane, so the N neurons of a pool (`pools.py`)
receive one input x.
Hebbian plasticity against the mean activity of the pool, anchored to the weights before the sleep,

    Δw_i ∝ -(z_i - mean_j z_j) x - gamma (w_i - w_i^init),      z_i = w_i · x,

brings the weights together: each tiled pool ends with a kernel of its own. If the pattern moves
over the plane, one pixel after the other, every neuron of the layer sees each patch in a moment of
its own. Where a wave of excitability moves with it, so that neurons respond in the moment in which
they see the patch x, and the mean activity is kept as a trace for a sweep, the same rule acts on
all neurons as one pool: *joined* pools.

From the shortcut to the mechanism there are four rules:

    mean      every neuron takes the mean weights of its pool, at once;
    exact     the fixed point of the rule above, in closed form;
    hebbian   the rule itself, iterated over random patterns;
    circuit   the same by neurons alone: excitatory rates and one inhibitory neuron (`lateral.py`).

Another, `low_rank`, leaves a pool a few kernels instead of one (`truncation.py`), and `noise` is
one step of the Hebbian rule, for networks that see patterns while awake.

A rule is a pure function `(kernel, neurons, key, *, border, **options) -> kernel` of kernels
(*output, *kernel, C // groups, O), which keeps their shape and dtype; `neurons`, a `LocalParameter`
or a `Grid`, says what the pools are. `hebbian` is one in two parts (`TwoPart`), of which layers of
one shape share the first. Taps on the zeros that input dilation inserts receive nothing, so no
pattern changes their weights; `mean` and `exact` treat them as all others, as nothing depends on
them. `sharing.py` applies a rule to a model. Source: Pogodin et al., "Towards Biologically
Plausible Convolutional Networks", NeurIPS 2021.

Shape suffixes: P pools, M members of a pool (padded), K weights of a neuron (taps × C // groups), O
features, B patterns in a step, S steps.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lcn_jax.layer.arguments import check_number, check_positive
from lcn_jax.layer.grid import Grid
from lcn_jax.sleep.lateral import Circuit, simulate
from lcn_jax.sleep.patterns import Field, hebbian_maps, map_deviations, seen_weights
from lcn_jax.sleep.pools import Neurons, Pools, num_pools, pool_numbers
from lcn_jax.sleep.truncation import low_rank


@dataclasses.dataclass(frozen=True)
class TwoPart:
    """A rule whose first part needs no kernel, only the receptive field of its neurons.

    `for_field(field, key, *, border, **options)` is that part, and returns the second, a function
    `(kernel, neurons) -> kernel`. `share` calls it once for all layers that have the field.
    """

    for_field: Callable[..., Callable[[jax.Array, Neurons], jax.Array]]

    def __call__(self, kernel: jax.Array, neurons: Neurons, key: jax.Array, **options) -> jax.Array:
        return self.for_field(Field.of(kernel, neurons), key, **options)(kernel, neurons)


def mean(kernel: jax.Array, neurons: Neurons, key: jax.Array | None, *, border: str) -> jax.Array:
    """Instant sharing: each neuron gets the mean weights of its pool.

    Not random: `key` is unused.
    """
    return Pools.of(neurons, border).averaged(kernel)


def exact(
    kernel: jax.Array, neurons: Neurons, key: jax.Array | None, *, border: str, gamma: float
) -> jax.Array:
    """The fixed point of the rule for Gaussian patterns: deviations shrink to gamma / (1 + gamma).

    Not random: `key` is unused.

    Raises:
      ValueError: gamma is negative or not a finite number.
    """
    check_number(gamma, 'gamma')
    means = Pools.of(neurons, border).averaged(kernel)
    return means + gamma / (1 + gamma) * (kernel - means)


@TwoPart
def hebbian(
    field: Field,
    key: jax.Array,
    *,
    border: str,
    gamma: float,
    learning_rate: float,
    steps: int,
    patterns_per_step: int,
    momentum: float,
    axis_name: str | None = None,
) -> Callable[[jax.Array, Neurons], jax.Array]:
    """Iterates the rule over fresh Gaussian patterns.

    All groups are shown the same channels, since none sees another: the patterns
    (patterns_per_step, *kernel, C // groups) of step s are drawn with `fold_in(key, s)`.

    Args:
      border: 'include' or 'exclude' the neurons whose receptive field reaches into the padding.
      gamma: strength of the anchor to the weights before the sleep.
      learning_rate: of a step, whose update is averaged over its patterns.
      steps, patterns_per_step: how many patterns there are.
      momentum: decay of the velocity, which is 0 at the start of the sleep.
      axis_name: the axis of devices that divide the patterns among them and average their
        updates. Without it every device sees all patterns, which needs no communication.

    Raises:
      ValueError: an option is out of its range, the devices cannot divide the patterns equally, or
        deviations would grow.
    """
    check_positive(steps, 'steps')
    check_positive(patterns_per_step, 'patterns_per_step')
    _check_rates(learning_rate, momentum, gamma)
    highest = highest_rate(field.weights, patterns_per_step, gamma)
    traced = isinstance(gamma, jax.Array)
    if momentum == 0 and not traced and learning_rate >= highest:  # with momentum it is another one
        raise ValueError(
            f'with {patterns_per_step} patterns a step, learning_rate={learning_rate:g} and '
            f'gamma={gamma:g}, neurons of {field.weights} weights would diverge: set learning_rate '
            f'below {highest:.2g}, best to half of that, or raise patterns_per_step.'
        )
    devices = 1 if axis_name is None else lax.axis_size(axis_name)
    if patterns_per_step % devices:
        raise ValueError(
            f'{patterns_per_step} patterns a step cannot be split over {devices} devices: change '
            'patterns_per_step or set split_patterns=False.'
        )

    def show(step):
        # Drawn step by step they stay in the cache; drawing all at once takes four times as long.
        all_BK = jax.random.normal(
            jax.random.fold_in(key, step), (patterns_per_step, field.weights), field.dtype
        )
        if axis_name is None:
            return all_BK
        part = patterns_per_step // devices
        return lax.dynamic_slice_in_dim(all_BK, lax.axis_index(axis_name) * part, part)

    maps_VKK = hebbian_maps(
        field,
        show,
        jnp.arange(steps),
        gamma=gamma,
        learning_rate=learning_rate,
        momentum=momentum,
        axis_name=axis_name,
    )
    return lambda kernel, neurons: map_deviations(kernel, neurons, border, maps_VKK[None])


@TwoPart
def noise(
    field: Field, key: jax.Array, *, border: str, patterns: int, rate: float
) -> Callable[[jax.Array, Neurons], jax.Array]:
    """One step of `hebbian` without an anchor: what a few patterns do between two images.

    Meant for every wake step (`sleep.every=1`): then nothing is left of a separate sleep.

    Args:
      patterns: how many are shown.
      rate: the learning rate as a fraction of the layer's highest (`highest_rate`), between 0 and
        1. With 1/2 the mean square of the deviations falls fastest, to 1 - 1 / (1 + (K + 1) / B).

    Raises:
      ValueError: an option is out of its range.
    """
    check_positive(patterns, 'patterns')
    check_number(rate, 'rate', positive=True)
    if not isinstance(rate, jax.Array) and rate >= 1:
        raise ValueError(f'rate must be below 1, got {rate:g}: deviations would grow.')
    return hebbian.for_field(
        field,
        key,
        border=border,
        gamma=0.0,
        learning_rate=rate * highest_rate(field.weights, patterns),
        steps=1,
        patterns_per_step=patterns,
        momentum=0.0,
    )


def highest_rate(weights: int, patterns: int, gamma: float = 0.0) -> float:
    """The learning rate at which B patterns in a step no longer make K weights alike.

    A step multiplies the mean square of a deviation, but for the anchor's pull to where it was, by
    1 - 2 lr (1 + gamma) + lr² ((1 + gamma)² + (K + 1) / B): the random covariance of B patterns has
    the mean 1 and the second moment 1 + (K + 1) / B. Half of this rate is best.
    """
    return 2 * (1 + gamma) / ((1 + gamma) ** 2 + (weights + 1) / patterns)


def _check_rates(learning_rate: float, momentum: float, gamma: float) -> None:
    """ValueError, with the name of an option, if one is out of its range."""
    check_number(learning_rate, 'learning_rate', positive=True)
    check_number(momentum, 'momentum')
    check_number(gamma, 'gamma')
    if not isinstance(momentum, jax.Array) and momentum >= 1:
        raise ValueError(f'momentum must be below 1, got {momentum}.')


def circuit(
    kernel: jax.Array,
    neurons: Neurons,
    key: jax.Array,
    *,
    border: str,
    patterns_per_weight: int,
    gamma: float,
    learning_rate: float,
    alpha: float,
    tau: float,
    b: float,
    momentum: float,
    steps_per_pattern: int,
) -> jax.Array:
    """Simulates, for every pool and feature, excitatory neurons and an inhibitory one.

    One pattern equalises one of the K directions of the weights, so a layer is shown
    patterns_per_weight × K Gaussian patterns, each for `steps_per_pattern` time steps: this takes
    much longer than the other rules. The learning rate is learning_rate / K, so that neurons with
    many weights, whose drive grows as |x|², are as stable as others; it does not fall as in the
    paper's long simulation. The other options are those of `lateral.Circuit`. As alpha is finite,
    pool means decay, too, several times more slowly than the deviations. Joined pools take a sweep
    over the tiled ones for each time step.

    Raises:
      ValueError: an option is out of its range.
    """
    check_positive(patterns_per_weight, 'patterns_per_weight')
    check_positive(steps_per_pattern, 'steps_per_pattern')
    _check_rates(learning_rate, momentum, gamma)
    pools = Pools.of(neurons, border)
    excited = None
    if not isinstance(neurons, Grid) and neurons.joined:  # a tiled pool sees a pattern at once
        tiled = dataclasses.replace(neurons, joined=False)
        turn_PM = pool_numbers(tiled).ravel()[pools.index]
        excited = jnp.asarray(turn_PM[:, None] == np.arange(num_pools(tiled))[:, None])
    weights_PMKO = pools.split(kernel)
    weights_count = weights_PMKO.shape[2]
    parameters = Circuit(
        alpha=alpha,
        tau=tau,
        b=b,
        momentum=momentum,
        steps_per_pattern=steps_per_pattern,
        learning_rate=lambda t: jnp.full(t.shape, learning_rate / weights_count),
    )
    shown = jax.random.normal(
        key, (patterns_per_weight * weights_count, weights_count), kernel.dtype
    )
    order_PK, on_pixel_PK = seen_weights(neurons, kernel.shape[-2])
    inputs_PSK = jnp.where(on_pixel_PK, shown[:, order_PK], 0).swapaxes(0, 1)

    def one_circuit(weights_MK, inputs_SK, members, excited):
        return simulate(weights_MK, inputs_SK, gamma, parameters, members, excited=excited)[0]

    over_features = jax.vmap(one_circuit, in_axes=(-1, None, None, None), out_axes=-1)
    of_pools = weights_PMKO, inputs_PSK, jnp.asarray(pools.members), excited
    shared = jax.vmap(over_features)(*of_pools)
    return pools.join(shared, kernel)


RULES: dict[str, Callable[..., jax.Array]] = {
    'mean': mean,
    'exact': exact,
    'hebbian': hebbian,
    'circuit': circuit,
    'noise': noise,
    'low_rank': low_rank,
}
