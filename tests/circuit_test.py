"""The lateral circuit and the plain rule: one pool, in float64."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import compiled, over_cases

from lcn_jax.sleep import lateral
from lcn_jax.sleep.lateral import Circuit

# Learns much faster than the paper's, so that a few patterns move the weights a lot.
FAST = Circuit(learning_rate=lambda t: 3e-3 / (1 + 1e-3 * t))

WAVE = np.arange(11) % 3 == np.arange(3)[:, None]  # eleven neurons in three moments

simulate = compiled(lateral.simulate, static_argnames='observe')
hebbian_sgd = compiled(lateral.hebbian_sgd, static_argnames='learning_rate')
FORMS = {'fast': lateral.simulate, 'plain': lateral.simulate_stepwise}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def pool(neurons, inputs, patterns, seed=0):
    """Weights 1 + N(0, 1) of a pool and Gaussian patterns."""
    rng = np.random.default_rng(seed)
    weights = 1 + rng.standard_normal((neurons, inputs))
    return weights, rng.standard_normal((patterns, inputs))


def weights_and_rates(weights, rates):
    return weights, rates


def by_both_forms(*arguments, **options):
    """What each form returns that observes weights and rates."""
    return {
        name: form(*arguments, **options, observe=weights_and_rates) for name, form in FORMS.items()
    }


def orthogonal_patterns(inputs, times):
    """Patterns whose mean x xᵀ is exactly the identity."""
    return np.tile(np.sqrt(inputs) * np.eye(inputs), (times, 1))


def mean_and_deviation_gain(start, final):
    """By how much the mean weights (K,) of a pool and the deviations from them have shrunk."""
    mean, deviation = start.mean(0), start - start.mean(0)
    final_deviation = final - final.mean(0)
    return final.mean(0) / mean, (final_deviation * deviation).sum() / (deviation**2).sum()


def held_still(case, weights, patterns):
    """The weights and rates at the end, and the rates at rest, of a circuit that does not learn."""
    alpha, wave = case
    still = Circuit(alpha=alpha, b=0.7, steps_per_pattern=1500, plastic_from=1500)
    excited = WAVE[:, :7] if wave else None
    final, (_, rates) = lateral.simulate(
        weights, patterns, 0.1, still, observe=weights_and_rates, excited=excited
    )
    return final, rates, lateral.steady_rates(weights, patterns[0], still)


settled = over_cases(
    held_still,
    [(alpha, wave) for alpha in (0.0, 10.0) for wave in (False, True)],
    lambda case: pool(neurons=7, inputs=5, patterns=1),
)


@pytest.mark.parametrize('wave', [False, True])
@pytest.mark.parametrize('alpha', [0.0, 10.0])
def test_rates_settle_at_the_steady_state(alpha, wave):
    (weights, patterns), (final, rates, steady) = settled((alpha, wave))
    # 0 = -r + z - alpha r_inh + b and 0 = -r_inh + mean(r) - b.
    system = np.eye(8)
    system[:7, 7] = alpha
    system[7, :7] = -1 / 7
    at_rest = np.linalg.solve(system, np.append(weights @ patterns[0] + 0.7, -0.7))
    np.testing.assert_allclose(rates[0], at_rest, rtol=1e-9)
    np.testing.assert_allclose(steady, at_rest[:7], rtol=1e-9)
    np.testing.assert_array_equal(final, weights)


VARIED = {
    'as it is': {},
    'no momentum': {'momentum': 0.0, 'plastic_from': 0},
    'other constants': {
        'alpha': 3.0, 'tau': 12.0, 'b': 0.4, 'steps_per_pattern': 40, 'plastic_from': 55,
    },
    'one step': {'steps_per_pattern': 1, 'plastic_from': 0},
    'a wave': {'steps_per_pattern': 60},
}  # fmt: skip


def varied(name, weights, patterns):
    excited = WAVE if name == 'a wave' else None
    return by_both_forms(
        weights, patterns, 0.3, dataclasses.replace(FAST, **VARIED[name]), np.arange(11) < 8,
        excited=excited,
    )  # fmt: skip


by_name = over_cases(varied, list(VARIED), lambda name: pool(neurons=11, inputs=6, patterns=9))


@pytest.mark.parametrize('name', VARIED)
def test_fast_form_equals_plain_form(name):
    (weights, _), found = by_name(name)
    (fast, fast_seen), (plain, plain_seen) = found['fast'], found['plain']
    assert np.abs(plain - weights).max() > 0.01
    np.testing.assert_allclose(fast, plain, rtol=0, atol=1e-11)
    steps = dataclasses.replace(FAST, **VARIED[name]).steps_per_pattern
    for ours, theirs in zip(fast_seen, plain_seen, strict=True):
        np.testing.assert_allclose(ours, theirs[steps - 1 :: steps], rtol=0, atol=1e-11)


def test_a_wave_by_hand():
    """Each rate moves in its own moment; the inhibition in all, by a third as much."""
    weights, patterns = pool(neurons=11, inputs=6, patterns=1)
    still = Circuit(steps_per_pattern=2, plastic_from=2)
    _, (_, seen) = simulate(weights, patterns, 0.1, still, observe=weights_and_rates, excited=WAVE)
    z, rates, inhibition = weights @ patterns[0], np.zeros(11), 0.0
    for moment in (0, 1, 2, 0, 1, 2):
        mean, drive = rates.mean(), z - 10 * inhibition + 1 - rates
        rates = np.where(np.arange(11) % 3 == moment, rates + drive / 30, rates)
        inhibition += (mean - 1 - inhibition) / 90
    np.testing.assert_allclose(seen[0], [*rates, inhibition], rtol=1e-12)


def test_nothing_is_learnt_before_plasticity_begins():
    weights, patterns = pool(neurons=5, inputs=4, patterns=3)
    late = dataclasses.replace(FAST, steps_per_pattern=20, plastic_from=40)
    found = compiled(by_both_forms)(weights, patterns, 0.1, late)
    for name, times in {'fast': np.arange(20, 61, 20), 'plain': np.arange(1, 61)}.items():
        _, (seen, _) = found[name]
        moved = np.abs(seen - weights).max((1, 2)) > 0
        np.testing.assert_array_equal(moved, times > 40)


def test_padding_changes_nothing_and_stays():
    weights, patterns = pool(neurons=6, inputs=4, patterns=5)
    members = np.array([False, True, True, True, False, True, True, True])
    padded = np.full((8, 4), 1e3)
    padded[members] = weights

    @compiled
    def found(weights, padded, patterns):
        return (
            by_both_forms(weights, patterns, 0.1, FAST),
            by_both_forms(padded, patterns, 0.1, FAST, members),
        )

    without, with_padding = found(weights, padded, patterns)
    for form in FORMS:
        alone, (_, alone_rates) = without[form]
        final, (_, rates) = with_padding[form]
        np.testing.assert_allclose(final[members], alone, rtol=1e-11)
        np.testing.assert_array_equal(final[~members], padded[~members])
        rates = rates[:, np.append(members, True)]
        np.testing.assert_allclose(rates, alone_rates, rtol=1e-9, atol=1e-9)


def test_fixed_point():
    # Short transients, so that activity is the steady state's for nearly all the time.
    alpha, gamma, inputs = 4.0, 0.1, 4
    weights, _ = pool(neurons=20, inputs=inputs, patterns=1)
    brisk = Circuit(
        alpha=alpha,
        tau=3.0,
        momentum=0.5,
        steps_per_pattern=100,
        learning_rate=lambda t: 2.5e-5 + 0.0 * t,
    )
    final, _ = simulate(weights, orthogonal_patterns(inputs, times=800), gamma, brisk)
    mean_gain, deviation_gain = mean_and_deviation_gain(weights, final)
    assert deviation_gain / (gamma / (1 + gamma)) == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(mean_gain, gamma / (gamma + 1 / (1 + alpha)), rtol=0.05)


def test_vmap_equals_loop():
    pools = [pool(neurons=6, inputs=4, patterns=4, seed=seed) for seed in range(3)]
    weights, patterns = (np.stack(arrays) for arrays in zip(*pools, strict=True))
    members = np.arange(6) < np.array([[6], [4], [5]])
    gammas = np.array([0.5, 0.01])
    over_pools = jax.vmap(lateral.simulate, (0, 0, None, None, 0))
    over_both = compiled(jax.vmap(over_pools, (None, None, 0, None, None)))
    final, _ = over_both(weights, patterns, gammas, FAST, members)
    for i, gamma in enumerate(gammas):
        for j in range(3):
            one, _ = simulate(weights[j], patterns[j], gamma, FAST, members[j])
            np.testing.assert_allclose(final[i, j], one, rtol=0, atol=1e-12)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_float32_keeps_a_weak_anchor(dtype):
    # Displaced by one pattern, then left to an anchor whose pull per step, lr * gamma = 2e-9,
    # is below the resolution of float32: lr * gamma / (1 - momentum) brings it back.
    weights, patterns = pool(neurons=4, inputs=3, patterns=1)
    patterns = np.pad(patterns, ((0, 500), (0, 0)))
    slow = Circuit(learning_rate=lambda t: jnp.where(t < 150, 1e-3, 2e-8))
    start = weights.astype(dtype)
    _, (seen, _) = simulate(start, patterns.astype(dtype), 0.1, slow, observe=weights_and_rates)
    assert seen.dtype == dtype
    # Four patterns after the displacement its velocity is gone.
    size = np.linalg.norm(np.float64(seen[4:]) - start, axis=(1, 2))
    assert (1 - size[-1] / size[0]) / (496 * 150 * 4e-8) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    'weights, patterns, members',
    [
        ((3,), (2, 3), None),
        ((4, 3), (3,), None),
        ((4, 3), (2, 5), None),
        ((4, 3), (2, 3), (3,)),
    ],
)
def test_refuses_shapes_that_do_not_fit(weights, patterns, members):
    weights, patterns = np.ones(weights), np.ones(patterns)
    members = members and np.ones(members)
    for form in FORMS.values():
        with pytest.raises(ValueError, match=r'^expected .* got .*'):
            form(weights, patterns, 0.1, FAST, members)
    with pytest.raises(ValueError, match=r'^expected .* got .*'):
        lateral.hebbian_sgd(weights, patterns, 0.1, members=members)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(alpha=59.0, tau=30.0), r'1 \+ alpha < 2 tau'),
        (dict(alpha=-2.0), 'alpha must be a number, 0 or more'),  # it would excite
        (dict(tau=0.0), 'tau must be a number, positive'),
        (dict(b=math.nan), 'b must be a number, 0 or more'),
    ],
)
def test_refuses_unstable_rates(options, message):
    with pytest.raises(ValueError, match=message):
        Circuit(**options)


# ---- The plain rule. -----------------------------------------------------------------------------


def test_the_plain_rule_descends_the_variance_of_the_activity_and_the_anchor():
    weights, patterns = pool(neurons=5, inputs=4, patterns=3)
    gamma, lr = 0.3, 0.05

    def loss(w, x):
        z = w @ x
        return ((z - z.mean()) ** 2).sum() / 2 + gamma * ((w - weights) ** 2).sum() / 2

    gradient = compiled(jax.grad(loss))
    expected, velocity = weights, 0.0
    for x in patterns:
        velocity = 0.9 * velocity + lr * gradient(expected, x)
        expected = expected - velocity
    final, _ = hebbian_sgd(weights, patterns, gamma, 0.9, learning_rate=lambda t: lr + 0.0 * t)
    np.testing.assert_allclose(final, expected, rtol=1e-12)


def test_fixed_point_of_the_plain_rule_for_gaussian_patterns():
    gamma = 0.1
    weights, patterns = pool(neurons=50, inputs=9, patterns=20_000)
    final, _ = hebbian_sgd(weights, patterns, gamma)
    mean_gain, deviation_gain = mean_and_deviation_gain(weights, final)
    np.testing.assert_allclose(mean_gain, 1, rtol=1e-10)
    assert deviation_gain / (gamma / (1 + gamma)) == pytest.approx(1, abs=0.05)


def test_padding_changes_nothing_for_the_plain_rule_and_stays():
    weights, patterns = pool(neurons=6, inputs=4, patterns=50)
    alone, _ = hebbian_sgd(weights, patterns, 0.1)
    padded = np.concatenate([weights, np.full((2, 4), 1e3)])
    final, _ = hebbian_sgd(padded, patterns, 0.1, members=np.arange(8) < 6)
    np.testing.assert_allclose(final[:6], alone, rtol=1e-11)
    np.testing.assert_array_equal(final[6:], padded[6:])
