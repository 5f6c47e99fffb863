"""Agreement with the numbers that the authors' code gave: layer, sharing, SNR, both simulations.

LCN_PARITY_DIR names the folder of `layer_*.npz`, `circuit_*.npz` and `hebbian_sgd_*.npz` (default:
parity/ beside this file). Sizes, parameters and every recorded array are read from the files.
"""

import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from absl.testing import absltest, parameterized
from reference import interior_mean_over_std, inverse_weight_snr

from lcn_jax import sleep
from lcn_jax.layer.backends.bilinear import implementations
from lcn_jax.layer.functional import conv_local
from lcn_jax.layer.grid import Grid
from lcn_jax.sleep import lateral
from lcn_jax.sleep.patterns import hebbian_for

pytestmark = pytest.mark.optimised  # of numbers

FOLDER = pathlib.Path(os.environ.get('LCN_PARITY_DIR', pathlib.Path(__file__).parent / 'parity'))
SIMULATION_ERROR = 1e-8  # relative; theirs is float64 too
LAYER_ERROR = 1e-5  # theirs is float32


class ParityTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))

    def recordings(self, pattern):
        """The arrays of every file in the folder that fits the pattern, by file name."""
        paths = sorted(FOLDER.glob(pattern))
        self.assertNotEmpty(paths, f'no {pattern} in {FOLDER}')
        return {path.name: dict(np.load(path)) for path in paths}


class LayerParityTest(ParityTest):
    @pytest.mark.slow
    def test_layer_sharing_and_snr(self):
        for name, theirs in self.recordings('layer_*.npz').items():
            with self.subTest(name):
                self.check_layer(theirs)

    def check_layer(self, theirs):
        kernel_size, stride, groups = (int(theirs[n]) for n in ('kernel', 'stride', 'groups'))
        padding = (kernel_size - 1) // 2
        grid = Grid.create(theirs['x'].shape[2:], kernel_size, stride, padding)
        kernel = our_kernel(theirs['weights'])

        x = theirs['x'].transpose(0, 2, 3, 1)
        for implementation in implementations(jnp.float64):
            layer = functools.partial(
                conv_local,
                stride=stride,
                padding=padding,
                groups=groups,
                implementation=implementation,
            )
            y = jax.jit(layer)(x, kernel) + theirs.get('bias', 0)
            np.testing.assert_allclose(
                y, theirs['y'].transpose(0, 2, 3, 1), rtol=0, atol=LAYER_ERROR
            )

        shared = jax.jit(lambda kernel: sleep.mean(kernel, grid, None, border='include'))(kernel)
        np.testing.assert_allclose(
            shared, our_kernel(theirs['weights_shared_instantly']), rtol=0, atol=LAYER_ERROR
        )
        np.testing.assert_allclose(
            interior_mean_over_std(kernel, grid), theirs['snr_layer'], rtol=LAYER_ERROR
        )
        for name in theirs:
            if name.startswith('weights_hebbian_'):
                self.check_hebbian(theirs, grid, steps=int(name.rpartition('_')[2]))

    def check_hebbian(self, theirs, grid, steps):
        patterns = jnp.float64(theirs['patterns'][:steps].transpose(0, 1, 3, 4, 2))
        for rule in (hebbian_for, reference.hebbian_stepwise):
            if rule is reference.hebbian_stepwise and int(theirs['groups']) > 1:
                continue
            options = dict(
                border='exclude',
                gamma=float(theirs['hebbian_gamma']),
                learning_rate=float(theirs['hebbian_lr']),
            )
            asleep = jax.jit(lambda k, p, rule=rule, o=options: rule(k, grid, p, **o))
            ours = asleep(jnp.float64(our_kernel(theirs['weights'])), patterns)
            recorded = our_kernel(theirs[f'weights_hebbian_{steps}'])
            error = LAYER_ERROR * np.abs(recorded).max()
            np.testing.assert_allclose(ours, recorded, rtol=LAYER_ERROR, atol=error)


def our_kernel(weights):
    """(C // groups, O, Ho, Wo, kh, kw) -> (Ho, Wo, kh, kw, C // groups, O)."""
    return weights.transpose(2, 3, 4, 5, 0, 1)


class SimulationParityTest(ParityTest):
    def assert_close(self, theirs, **ours):
        for name, actual in ours.items():
            self.assertEqual(actual.shape, theirs[name].shape, name)
            atol = SIMULATION_ERROR * np.abs(theirs[name]).max()
            np.testing.assert_allclose(
                actual, theirs[name], rtol=SIMULATION_ERROR, atol=atol, err_msg=name
            )

    def test_plain_rule(self):
        for name, theirs in self.recordings('hebbian_sgd_*.npz').items():
            with self.subTest(name):
                self.check_plain_rule(theirs)

    @parameterized.parameters((lateral.simulate,), (lateral.simulate_stepwise,))
    @pytest.mark.slow
    def test_circuit(self, simulate):
        for name, theirs in self.recordings('circuit_*.npz').items():
            with self.subTest(name):
                self.check_circuit(simulate, theirs)

    def check_plain_rule(self, theirs):
        start = theirs['weights_init']
        final, inverse_snr = lateral.hebbian_sgd(
            start,
            theirs['patterns'],
            theirs['gamma'],
            theirs['momentum'],
            observe=inverse_weight_snr,
        )
        inverse_snr = np.insert(inverse_snr, 0, inverse_weight_snr(start))
        self.assert_close(theirs, weights_final=final, inverse_snr=inverse_snr)

    def check_circuit(self, simulate, theirs):
        start, steps = theirs['weights_init'], int(theirs['steps_per_pattern'])
        parameters = lateral.Circuit(
            **{name: float(theirs[name]) for name in ('alpha', 'tau', 'b', 'momentum')},
            steps_per_pattern=steps,
        )
        final, (rates, inverse_snr) = simulate(
            start,
            theirs['patterns'],
            theirs['gamma'],
            parameters,
            observe=lambda weights, rates: (rates, inverse_weight_snr(weights)),
        )
        inverse_snr = np.insert(inverse_snr, 0, inverse_weight_snr(start))
        if simulate is lateral.simulate_stepwise:
            rates = rates[steps - 1 :: steps]
        else:  # It only knows the weights at the end of every pattern.
            theirs['inverse_snr'] = theirs['inverse_snr'][::steps]
        self.assert_close(
            theirs, weights_final=final, rates_at_pattern_end=rates, inverse_snr=inverse_snr
        )


if __name__ == '__main__':
    absltest.main()
