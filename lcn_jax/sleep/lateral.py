"""The lateral circuit that equalises weights by Hebbian plasticity, and the plain rule it realises.

A pool is N neurons that see the same input x (K,) with their own weights w_i. Both rules are
stochastic gradient descent with momentum, anchored to the weights at the start of the sleep,

    v_i <- momentum v_i + lr(t) [a_i x + gamma (w_i - w_i^init)],    w_i <- w_i - v_i,

and differ in the activity a_i. The plain rule has a_i = z_i - mean(z) with z_i = w_i.x. The circuit
has a_i = r_i - b, where the rates r and that of one inhibitory neuron follow

    tau dr_i/dt   = -r_i   + w_i.x - alpha r_inh + b,
    tau dr_inh/dt = -r_inh + mean(r) - b.

With joined pools (`rules.py`) a pattern moves, and a wave of excitability moves with it, so that
the neurons see one x in turns: a sweep is a moment for each tiled pool. A neuron's rate changes in
its own moment only and carries over to the others, in which the inhibitory neuron goes on averaging
all rates; it is slower by the number of moments, so that it compares neurons across a sweep.

Source: Pogodin, Mehta, Lillicrap, Latham, "Towards Biologically Plausible Convolutional Networks",
NeurIPS 2021, arXiv 2106.13031.

Everything here is for one pool; `jax.vmap` adds trials, pools, channels or values of gamma. Common
arguments, in the floating dtype of `weights`:

    weights   (N, K), at the start; also the anchor w^init.
    patterns  (P, K), shown one after the other.
    gamma     strength of the anchor.
    members   (N,) of bool or 0/1, or None for all: pools of unequal size are padded, and the
              padding does not count in the mean and keeps its weights.
    excited   (moments, N) of bool or 0/1: the neurons whose rates change in each moment of a sweep,
              each in one; None for all in a single moment, without a wave.
    observe   function of the weights (and rates) whose results are returned, stacked over time.

Shapes that do not fit together raise a ValueError.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lcn_jax.layer.arguments import check_number

Schedule = Callable[[jax.Array], jax.Array]
Observe = Callable[[jax.Array, jax.Array], Any]  # of weights (N, K) and rates (N + 1,)


def hebbian_learning_rate(t: jax.Array) -> jax.Array:
    """The paper's learning rate of `hebbian_sgd` at pattern t = 0, 1, ..."""
    return 0.5 / (1000.0 + t)


def circuit_learning_rate(t: jax.Array) -> jax.Array:
    """The paper's learning rate of the circuit at time step t = 0, 1, ... across all patterns."""
    return 3e-4 / jnp.sqrt(1.0 + 0.5 * t)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Circuit:
    """Parameters of the circuit; the defaults are the paper's. Time is in Euler steps.

    With a wave a sweep takes the place of a step: plasticity acts once in it, at its end.

    Raises a ValueError for other numbers than these, or where the steps would make the rates grow
    without bound.
    """

    alpha: float = 10.0  # strength of the inhibition
    tau: float = 30.0  # time constant of all rates; with a wave, in steps of a neuron's own moments
    b: float = 1.0  # resting rate of the members; all rates start at 0
    momentum: float = 0.95
    steps_per_pattern: int = 150  # rates carry over from one pattern to the next
    plastic_from: int = 51  # first step with plasticity: the rates settle before it
    learning_rate: Schedule = circuit_learning_rate

    def __post_init__(self):
        check_number(self.alpha, 'alpha')
        check_number(self.tau, 'tau', positive=True)
        check_number(self.b, 'b')
        # The mean rate and the inhibition turn with (-1 ± i sqrt(alpha)) / tau.
        if not 1 + self.alpha < 2 * self.tau:
            raise ValueError(f'need 1 + alpha < 2 tau, got alpha={self.alpha}, tau={self.tau}')

    def learning_rates(self, patterns: jax.Array) -> jax.Array:
        """lr of every time step while patterns (P, K) are shown: (P, steps_per_pattern)."""
        t = jnp.arange(len(patterns) * self.steps_per_pattern)
        lrs = jnp.where(t < self.plastic_from, 0, self.learning_rate(t))
        return lrs.astype(patterns.dtype).reshape(len(patterns), self.steps_per_pattern)

    def euler_step(self, rates, inhibition, z, members, excited):
        """Rates (N,) and inhibitory rate () one sweep on; in a moment, both see those before it."""

        def moment(state, excited):
            rates, inhibition = state
            change = (-rates + z - self.alpha * inhibition + self.b) / self.tau
            change_inhibition = (-inhibition + _mean(rates, members) - self.b) / self.tau
            return (rates + excited * change, inhibition + change_inhibition / moments), None

        moments = len(excited)
        return lax.scan(moment, (rates, inhibition), excited)[0]


@jax.default_matmul_precision('highest')
def hebbian_sgd(
    weights: jax.Array,
    patterns: jax.Array,
    gamma: float,
    momentum: float = 0.95,
    learning_rate: Schedule = hebbian_learning_rate,
    members: jax.Array | None = None,
    observe: Callable[[jax.Array], Any] = lambda weights: None,
) -> tuple[jax.Array, Any]:
    """Runs the plain rule, one update per pattern; `learning_rate` is a function of its number.

    Returns the final weights (N, K) and observe(weights) after every pattern, (P, ...).
    """
    members = _checked_members(weights, patterns, members)

    def update(state, inputs):
        w, v = state
        x, lr = inputs
        z = w @ x
        activity = members * (z - _mean(z, members))
        w, v = _descend((w, v), weights, activity, x, lr, gamma, momentum)
        return (w, v), observe(w)

    lrs = learning_rate(jnp.arange(len(patterns))).astype(weights.dtype)
    (final, _), observed = lax.scan(update, (weights, jnp.zeros_like(weights)), (patterns, lrs))
    return final, observed


@jax.default_matmul_precision('highest')
def simulate_stepwise(
    weights: jax.Array, patterns: jax.Array, gamma: float, circuit: Circuit,
    members: jax.Array | None = None, observe: Observe = lambda weights, rates: None,
    excited: jax.Array | None = None,
) -> tuple[jax.Array, Any]:  # fmt: skip
    """Runs the circuit one time step after the other: the plain form of `simulate`.

    Returns the final weights (N, K) and observe(weights, rates) after every time step,
    (P * steps_per_pattern, ...), with rates (N + 1,) of which the last is the inhibitory neuron's.
    """
    members, excited, silence = _start(weights, patterns, members, excited)

    def step(state, inputs):
        w, v, rates, inhibition = state
        x, lr = inputs
        rates, inhibition = circuit.euler_step(rates, inhibition, w @ x, members, excited)
        activity = members * (rates - circuit.b)
        w, v = _descend((w, v), weights, activity, x, lr, gamma, circuit.momentum)
        return (w, v, rates, inhibition), observe(w, jnp.append(rates, inhibition))

    start = weights, jnp.zeros_like(weights), *silence
    shown = jnp.repeat(patterns, circuit.steps_per_pattern, axis=0)
    inputs = shown, circuit.learning_rates(patterns).ravel()
    (final, *_), observed = lax.scan(step, start, inputs)
    return final, observed


@jax.default_matmul_precision('highest')
def steady_rates(weights: jax.Array, x: jax.Array, circuit: Circuit) -> jax.Array:
    """Rates (N,) at which the circuit rests: r_i = b + z_i - mean(z) + mean(z) / (1 + alpha).

    For weights (N, K) held still and input x (K,). A strong inhibition alpha makes r_i - b the
    activity z_i - mean(z) of the plain rule; a finite one lets the mean weight decay slowly.
    """
    z = weights @ x
    return circuit.b + z - z.mean() + z.mean() / (1 + circuit.alpha)


@jax.default_matmul_precision('highest')
def simulate(
    weights: jax.Array, patterns: jax.Array, gamma: float, circuit: Circuit,
    members: jax.Array | None = None, observe: Observe = lambda weights, rates: None,
    excited: jax.Array | None = None,
) -> tuple[jax.Array, Any]:  # fmt: skip
    """Runs the circuit with weights rebuilt once per pattern; else equal to `simulate_stepwise`.

    While a pattern x lasts, the deviation from the anchor d = w - w^init and the velocity v stay in
    the span of their values d0, v0 at its start and x:

        d = d0 + A d0 + B v0 + c x,        v = C d0 + D v0 + e x.

    A, B, C, D are the same for the pool, c and e are one number per neuron, and the rates only need
    w.x = w0.x + A d0.x + B v0.x + c |x|^2: the cost of a time step does not depend on K. (A leaves
    out the 1 next to which float32 would lose lr * gamma, and with it the anchor.)

    Returns the final weights (N, K) and observe(weights, rates) after every pattern, (P, ...), with
    rates (N + 1,) of which the last is the inhibitory neuron's.
    """
    members, excited, silence = _start(weights, patterns, members, excited)

    def show(state, inputs):
        d0, v0, rates, inhibition = state
        x, lrs = inputs
        z0, z_deviation, z_velocity, x_squared = (weights + d0) @ x, d0 @ x, v0 @ x, x @ x

        def step(state, lr):
            rates, inhibition, (A, B, c), (C, D, e) = state
            z = z0 + A * z_deviation + B * z_velocity + c * x_squared
            rates, inhibition = circuit.euler_step(rates, inhibition, z, members, excited)
            C = circuit.momentum * C + lr * gamma * (1 + A)
            D = circuit.momentum * D + lr * gamma * B
            e = circuit.momentum * e + lr * (members * (rates - circuit.b) + gamma * c)
            return (rates, inhibition, (A - C, B - D, c - e), (C, D, e)), None

        zero, zeros = jnp.zeros_like(inhibition), jnp.zeros_like(rates)
        start = rates, inhibition, (zero, zero, zeros), (zero, zero + 1, zeros)
        (rates, inhibition, (A, B, c), (C, D, e)), _ = lax.scan(step, start, lrs)
        d = d0 + (A * d0 + B * v0 + jnp.outer(c, x))
        v = C * d0 + D * v0 + jnp.outer(e, x)
        return (d, v, rates, inhibition), observe(weights + d, jnp.append(rates, inhibition))

    start = jnp.zeros_like(weights), jnp.zeros_like(weights), *silence
    inputs = patterns, circuit.learning_rates(patterns)
    (deviation, *_), observed = lax.scan(show, start, inputs)
    return weights + deviation, observed


def _descend(state, anchor, activity, x, lr, gamma, momentum):
    """Weights and velocity (N, K) after one plastic step."""
    weights, velocity = state
    gradient = jnp.outer(activity, x) + gamma * (weights - anchor)
    velocity = momentum * velocity + lr * gradient
    return weights - velocity, velocity


def _mean(rates, members):
    return (members * rates).sum() / jnp.maximum(members.sum(), 1)


def _start(weights, patterns, members, excited):
    """Members (N,) and moments (M, N) as 0/1 in the weights' dtype, and the rates at the start."""
    members = _checked_members(weights, patterns, members)
    if excited is None:
        excited = jnp.ones_like(members)[None]
    if excited.shape[1:] != members.shape:
        raise ValueError(f'expected excited (moments, {len(members)}), got {excited.shape}')
    silence = jnp.zeros_like(members), jnp.zeros_like(members[0])
    return members, excited.astype(weights.dtype), silence


def _checked_members(weights, patterns, members):
    """The members (N,) as 0/1 in the weights' dtype; refuses shapes that do not fit."""
    if weights.ndim != 2 or patterns.ndim != 2 or weights.shape[1] != patterns.shape[1]:
        raise ValueError(
            f'expected weights (N, K) and patterns (P, K), got {weights.shape} and {patterns.shape}'
        )
    if members is None:
        return jnp.ones_like(weights[:, 0])
    if members.shape != weights.shape[:1]:
        raise ValueError(f'expected members {weights.shape[:1]}, got {members.shape}')
    return members.astype(weights.dtype)
