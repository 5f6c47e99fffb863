"""Agreement of both simulations with the numbers that the authors' code gave.

LCN_PARITY_DIR names the folder of `circuit_*.npz` and `hebbian_sgd_*.npz` (default: parity/ beside
this file). Sizes, parameters and every recorded array are read from the files.
"""

import os
import pathlib

import jax
import numpy as np
from absl.testing import absltest, parameterized

from lcn_jax import circuit
from lcn_jax.snr import inverse_weight_snr

FOLDER = pathlib.Path(os.environ.get('LCN_PARITY_DIR', pathlib.Path(__file__).parent / 'parity'))
RELATIVE_ERROR = 1e-8  # theirs is float64 too


class SimulationParityTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))

    def recordings(self, pattern):
        """The arrays of every file in the folder that fits the pattern, by file name."""
        paths = sorted(FOLDER.glob(pattern))
        self.assertNotEmpty(paths, f'no {pattern} in {FOLDER}')
        return {path.name: dict(np.load(path)) for path in paths}

    def assert_close(self, theirs, **ours):
        for name, actual in ours.items():
            self.assertEqual(actual.shape, theirs[name].shape, name)
            atol = RELATIVE_ERROR * np.abs(theirs[name]).max()
            np.testing.assert_allclose(
                actual, theirs[name], rtol=RELATIVE_ERROR, atol=atol, err_msg=name
            )

    def test_plain_rule(self):
        for name, theirs in self.recordings('hebbian_sgd_*.npz').items():
            with self.subTest(name):
                self.check_plain_rule(theirs)

    @parameterized.parameters((circuit.simulate,), (circuit.simulate_stepwise,))
    def test_circuit(self, simulate):
        for name, theirs in self.recordings('circuit_*.npz').items():
            with self.subTest(name):
                self.check_circuit(simulate, theirs)

    def check_plain_rule(self, theirs):
        start = theirs['weights_init']
        final, inverse_snr = circuit.hebbian_sgd(
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
        parameters = circuit.Circuit(
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
        if simulate is circuit.simulate_stepwise:
            rates = rates[steps - 1 :: steps]
        else:  # It only knows the weights at the end of every pattern.
            theirs['inverse_snr'] = theirs['inverse_snr'][::steps]
        self.assert_close(
            theirs, weights_final=final, rates_at_pattern_end=rates, inverse_snr=inverse_snr
        )


if __name__ == '__main__':
    absltest.main()
