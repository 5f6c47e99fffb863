"""Tests of the lateral circuit, the plain rule, the weight SNR and the convergence figure."""

import dataclasses
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from absl.testing import absltest, flagsaver, parameterized
from reference import inverse_weight_snr

from experiments import convergence
from lcn_jax.sleep import lateral
from lcn_jax.sleep.lateral import Circuit
from lcn_jax.sleep.similarity import weight_snr

# Learns much faster than the paper's, so that a few patterns move the weights a lot.
FAST = Circuit(learning_rate=lambda t: 3e-3 / (1 + 1e-3 * t))

WAVE = np.arange(11) % 3 == np.arange(3)[:, None]  # eleven neurons in three moments

simulate = jax.jit(lateral.simulate, static_argnames='observe')
simulate_stepwise = jax.jit(lateral.simulate_stepwise, static_argnames='observe')
hebbian_sgd = jax.jit(lateral.hebbian_sgd)
both_forms = parameterized.parameters((simulate,), (simulate_stepwise,))


def pool(neurons, inputs, patterns, seed=0):
    """Weights 1 + N(0, 1) of a pool and Gaussian patterns."""
    rng = np.random.default_rng(seed)
    weights = 1 + rng.standard_normal((neurons, inputs))
    return weights, rng.standard_normal((patterns, inputs))


def weights_and_rates(weights, rates):
    return weights, rates


def orthogonal_patterns(inputs, times):
    """Patterns whose mean x xᵀ is exactly the identity."""
    return np.tile(np.sqrt(inputs) * np.eye(inputs), (times, 1))


def mean_and_deviation_gain(start, final):
    """By how much the mean weights (K,) of a pool and the deviations from them have shrunk."""
    mean, deviation = start.mean(0), start - start.mean(0)
    final_deviation = final - final.mean(0)
    return final.mean(0) / mean, (final_deviation * deviation).sum() / (deviation**2).sum()


class Float64TestCase(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))


class CircuitTest(Float64TestCase):
    @parameterized.product(alpha=(0.0, 10.0), excited=(None, WAVE[:, :7]))
    def test_rates_settle_at_the_steady_state(self, alpha, excited):
        weights, patterns = pool(neurons=7, inputs=5, patterns=1)
        still = Circuit(alpha=alpha, b=0.7, steps_per_pattern=1500, plastic_from=1500)
        final, (_, rates) = simulate(
            weights, patterns, 0.1, still, observe=weights_and_rates, excited=excited
        )
        # 0 = -r + z - alpha r_inh + b and 0 = -r_inh + mean(r) - b.
        system = np.eye(8)
        system[:7, 7] = alpha
        system[7, :7] = -1 / 7
        at_rest = np.linalg.solve(system, np.append(weights @ patterns[0] + 0.7, -0.7))
        np.testing.assert_allclose(rates[0], at_rest, rtol=1e-9)
        steady = lateral.steady_rates(weights, patterns[0], still)
        np.testing.assert_allclose(steady, at_rest[:7], rtol=1e-9)
        np.testing.assert_array_equal(final, weights)

    @parameterized.parameters(
        {},
        {'momentum': 0.0, 'plastic_from': 0},
        {'alpha': 3.0, 'tau': 12.0, 'b': 0.4, 'steps_per_pattern': 40, 'plastic_from': 55},
        {'steps_per_pattern': 1, 'plastic_from': 0},
        {'steps_per_pattern': 60, 'excited': WAVE},
    )
    def test_fast_form_equals_plain_form(self, excited=None, **parameters):
        weights, patterns = pool(neurons=11, inputs=6, patterns=9)
        varied = dataclasses.replace(FAST, **parameters)
        arguments = weights, patterns, 0.3, varied, np.arange(11) < 8
        observed = {'observe': weights_and_rates, 'excited': excited}
        fast, fast_seen = simulate(*arguments, **observed)
        plain, plain_seen = simulate_stepwise(*arguments, **observed)
        self.assertGreater(np.abs(plain - weights).max(), 0.01)
        np.testing.assert_allclose(fast, plain, rtol=0, atol=1e-11)
        last = slice(varied.steps_per_pattern - 1, None, varied.steps_per_pattern)
        for ours, theirs in zip(fast_seen, plain_seen, strict=True):
            np.testing.assert_allclose(ours, theirs[last], rtol=0, atol=1e-11)

    def test_a_wave_by_hand(self):
        """Each rate moves in its own moment; the inhibition in all, by a third as much."""
        weights, patterns = pool(neurons=11, inputs=6, patterns=1)
        still = Circuit(steps_per_pattern=2, plastic_from=2)
        _, (_, seen) = simulate(
            weights, patterns, 0.1, still, observe=weights_and_rates, excited=WAVE
        )
        z, rates, inhibition = weights @ patterns[0], np.zeros(11), 0.0
        for moment in (0, 1, 2, 0, 1, 2):
            mean, drive = rates.mean(), z - 10 * inhibition + 1 - rates
            rates = np.where(np.arange(11) % 3 == moment, rates + drive / 30, rates)
            inhibition += (mean - 1 - inhibition) / 90
        np.testing.assert_allclose(seen[0], [*rates, inhibition], rtol=1e-12)

    @both_forms
    def test_nothing_is_learnt_before_plasticity_begins(self, form):
        weights, patterns = pool(neurons=5, inputs=4, patterns=3)
        steps = {'steps_per_pattern': 20, 'plastic_from': 40}
        varied = dataclasses.replace(FAST, **steps)
        _, (seen, _) = form(weights, patterns, 0.1, varied, observe=weights_and_rates)
        times = np.arange(20, 61, 20) if form is simulate else np.arange(1, 61)
        moved = np.abs(seen - weights).max((1, 2)) > 0
        np.testing.assert_array_equal(moved, times > 40)

    @both_forms
    def test_padding_changes_nothing_and_stays(self, form):
        weights, patterns = pool(neurons=6, inputs=4, patterns=5)
        members = np.array([False, True, True, True, False, True, True, True])
        padded = np.full((8, 4), 1e3)
        padded[members] = weights
        alone, (_, alone_rates) = form(weights, patterns, 0.1, FAST, observe=weights_and_rates)
        final, (_, rates) = form(padded, patterns, 0.1, FAST, members, observe=weights_and_rates)
        np.testing.assert_allclose(final[members], alone, rtol=1e-11)
        np.testing.assert_array_equal(final[~members], padded[~members])
        rates = rates[:, np.append(members, True)]
        np.testing.assert_allclose(rates, alone_rates, rtol=1e-9, atol=1e-9)

    def test_fixed_point(self):
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
        self.assertAlmostEqual(deviation_gain / (gamma / (1 + gamma)), 1, delta=0.05)
        np.testing.assert_allclose(mean_gain, gamma / (gamma + 1 / (1 + alpha)), rtol=0.05)

    def test_vmap_equals_loop(self):
        pools = [pool(neurons=6, inputs=4, patterns=4, seed=seed) for seed in range(3)]
        weights, patterns = (np.stack(arrays) for arrays in zip(*pools, strict=True))
        members = np.arange(6) < np.array([[6], [4], [5]])
        gammas = np.array([0.5, 0.01])
        over_pools = jax.vmap(lateral.simulate, (0, 0, None, None, 0))
        over_both = jax.jit(jax.vmap(over_pools, (None, None, 0, None, None)))
        final, _ = over_both(weights, patterns, gammas, FAST, members)
        for i, gamma in enumerate(gammas):
            for j in range(3):
                one, _ = simulate(weights[j], patterns[j], gamma, FAST, members[j])
                np.testing.assert_allclose(final[i, j], one, rtol=0, atol=1e-12)

    def test_float32_keeps_a_weak_anchor(self):
        # Displaced by one pattern, then left to an anchor whose pull per step, lr * gamma = 2e-9,
        # is below the resolution of float32: lr * gamma / (1 - momentum) brings it back.
        weights, patterns = pool(neurons=4, inputs=3, patterns=1)
        patterns = np.pad(patterns, ((0, 500), (0, 0)))
        slow = Circuit(learning_rate=lambda t: jnp.where(t < 150, 1e-3, 2e-8))

        for dtype in (np.float32, np.float64):
            start = weights.astype(dtype)
            _, (seen, _) = simulate(
                start, patterns.astype(dtype), 0.1, slow, observe=weights_and_rates
            )
            # Four patterns after the displacement its velocity is gone.
            size = np.linalg.norm(np.float64(seen[4:]) - start, axis=(1, 2))
            self.assertAlmostEqual((1 - size[-1] / size[0]) / (496 * 150 * 4e-8), 1, delta=0.02)

    @parameterized.parameters(
        ((3,), (2, 3), None),
        ((4, 3), (3,), None),
        ((4, 3), (2, 5), None),
        ((4, 3), (2, 3), (3,)),
    )
    def test_refuses_shapes_that_do_not_fit(self, weights, patterns, members):
        weights, patterns = np.ones(weights), np.ones(patterns)
        members = members and np.ones(members)
        for form in (simulate, simulate_stepwise):
            with self.assertRaisesRegex(ValueError, r'^expected .* got .*'):
                form(weights, patterns, 0.1, FAST, members)
        with self.assertRaisesRegex(ValueError, r'^expected .* got .*'):
            hebbian_sgd(weights, patterns, 0.1, members=members)

    def test_refuses_unstable_rates(self):
        with self.assertRaisesRegex(ValueError, r'1 \+ alpha < 2 tau'):
            Circuit(alpha=59.0, tau=30.0)


class HebbianSgdTest(Float64TestCase):
    def test_descends_the_variance_of_the_activity_and_the_anchor(self):
        weights, patterns = pool(neurons=5, inputs=4, patterns=3)
        gamma, lr = 0.3, 0.05

        def loss(w, x):
            z = w @ x
            return ((z - z.mean()) ** 2).sum() / 2 + gamma * ((w - weights) ** 2).sum() / 2

        expected, velocity = weights, 0.0
        for x in patterns:
            velocity = 0.9 * velocity + lr * jax.grad(loss)(expected, x)
            expected -= velocity
        final, _ = lateral.hebbian_sgd(weights, patterns, gamma, 0.9, lambda t: lr + 0.0 * t)
        np.testing.assert_allclose(final, expected, rtol=1e-12)

    def test_fixed_point_for_gaussian_patterns(self):
        gamma = 0.1
        weights, patterns = pool(neurons=50, inputs=9, patterns=20_000)
        final, _ = hebbian_sgd(weights, patterns, gamma)
        mean_gain, deviation_gain = mean_and_deviation_gain(weights, final)
        np.testing.assert_allclose(mean_gain, 1, rtol=1e-10)
        self.assertAlmostEqual(deviation_gain / (gamma / (1 + gamma)), 1, delta=0.05)

    def test_padding_changes_nothing_and_stays(self):
        weights, patterns = pool(neurons=6, inputs=4, patterns=50)
        alone, _ = hebbian_sgd(weights, patterns, 0.1)
        padded = np.concatenate([weights, np.full((2, 4), 1e3)])
        final, _ = hebbian_sgd(padded, patterns, 0.1, members=np.arange(8) < 6)
        np.testing.assert_allclose(final[:6], alone, rtol=1e-11)
        np.testing.assert_array_equal(final[6:], padded[6:])


class WeightSnrTest(parameterized.TestCase):
    # Means 2 and 3, population variances 1 and 4.
    WEIGHTS = np.array([[1.0, 1.0], [3.0, 5.0]])

    def test_by_hand(self):
        self.assertAlmostEqual(float(weight_snr(self.WEIGHTS)), (4 / 1 + 9 / 4) / 2)
        self.assertAlmostEqual(float(inverse_weight_snr(self.WEIGHTS)), (1 / 4 + 4 / 9) / 2)

    def test_pools_and_members(self):
        other = 7 * self.WEIGHTS + 1
        padding = np.full((1, 2), 1e6)
        weights = np.stack([np.vstack([padding, pool]) for pool in (self.WEIGHTS, other)])
        members = np.array([0, 1, 1])
        for snr in (weight_snr, inverse_weight_snr):
            expected = [snr(self.WEIGHTS), snr(other)]
            np.testing.assert_allclose(snr(weights, members), expected, rtol=1e-6)

    @parameterized.parameters(0.0, 0.1)
    def test_equal_weights(self, value):
        equal = jnp.full((2, 7, 3), value)
        np.testing.assert_array_equal(weight_snr(equal), [np.inf, np.inf])
        np.testing.assert_array_equal(inverse_weight_snr(equal), [0, 0])

    def test_vanishing_mean(self):
        opposite = jnp.array([[-1.0], [1.0]])
        self.assertEqual(weight_snr(opposite), 0)
        self.assertEqual(inverse_weight_snr(opposite), np.inf)

    def test_refuses_a_single_neuron(self):
        with self.assertRaisesRegex(ValueError, r'^expected weights \(\.\.\., N, K\), got \(3,\)'):
            weight_snr(jnp.ones(3))


class ConvergenceTest(parameterized.TestCase):
    @pytest.mark.slow
    def test_quick_figure(self):
        out = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / 'figure'
        with flagsaver.as_parsed(out=str(out), quick='true'):
            convergence.main([])

        image = matplotlib.image.imread(out / 'convergence.png')
        self.assertGreater(min(image.shape[:2]), 300)
        self.assertGreater(image.std(), 0.01)

        report = json.loads((out / 'convergence.json').read_text())
        settings = report['settings']
        self.assertEqual(settings['circuit']['alpha'], 10)
        drawn = {(curve['rule'], curve['kernel'], curve['gamma']) for curve in report['curves']}
        self.assertEqual(
            drawn,
            {
                (rule, kernel, gamma)
                for rule in ('hebbian', 'circuit')
                for kernel in settings['kernels']
                for gamma in settings['gammas']
            },
        )
        for curve in report['curves']:
            self.assertEqual(curve['patterns'][-1], settings[f'{curve["rule"]}_patterns'])
            self.assertLen(curve['snr_mean'], len(curve['patterns']))
            self.assertLen(curve['snr_std'], len(curve['patterns']))
            self.assertGreater(curve['snr_mean'][-1], 2 * curve['snr_initial'])
            gain = curve['snr_fixed_point'] / curve['snr_initial']
            self.assertAlmostEqual(gain, (1 + 1 / curve['gamma']) ** 2, delta=1e-6 * gain)

    def test_activity_over_a_pattern_is_near_the_steady_state(self):
        # Of a deviation, exp(-t / tau) has yet to arrive t after the onset.
        mean_decay, deviation_decay = convergence.circuit_decays()
        self.assertAlmostEqual(deviation_decay, 1 - 30 / 150 * (1 - np.exp(-150 / 30)), delta=0.01)
        self.assertAlmostEqual(mean_decay, 1 / 11, delta=0.02)


if __name__ == '__main__':
    absltest.main()
