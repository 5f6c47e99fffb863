"""Agreement with the numbers that the authors' code gave: layer, sharing, SNR, both simulations.

LCN_PARITY_DIR names the folder of `layer_*.npz`, `circuit_*.npz` and `hebbian_sgd_*.npz` (default:
parity/ beside this file). Sizes, parameters and every recorded array are read from the files.
"""

import os
import pathlib

import jax
import numpy as np
import pytest
from reference import compiled, hebbian_stepwise, interior_mean_over_std, inverse_weight_snr

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


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def each_recording(kind):
    """Gives a test the arrays of every file of that kind, each under its name; one at least."""
    paths = sorted(FOLDER.glob(f'{kind}_*.npz')) or [FOLDER / f'{kind}_0.npz']
    return pytest.mark.parametrize('path', paths, ids=lambda path: path.stem)


@each_recording('layer')
@pytest.mark.slow
def test_layer_sharing_and_snr(path):
    theirs = dict(np.load(path))
    kernel_size, stride, groups = (int(theirs[n]) for n in ('kernel', 'stride', 'groups'))
    padding = (kernel_size - 1) // 2
    grid = Grid.create(theirs['x'].shape[2:], kernel_size, stride, padding)
    of_layer = {'stride': stride, 'padding': padding, 'groups': groups}
    steps = [name.rpartition('_')[2] for name in theirs if name.startswith('weights_hebbian_')]
    patterns, of_sleep = None, {'border': 'exclude'}
    if steps:
        patterns = theirs['patterns'].transpose(0, 1, 3, 4, 2).astype(np.float64)
        of_sleep['gamma'] = float(theirs['hebbian_gamma'])
        of_sleep['learning_rate'] = float(theirs['hebbian_lr'])
    rules = [hebbian_for, hebbian_stepwise] if groups == 1 else [hebbian_for]

    @compiled
    def program(x, kernel, patterns):
        outputs = [
            conv_local(x, kernel, **of_layer, implementation=implementation)
            for implementation in implementations(np.float64)
        ]
        asleep = {
            number: [
                rule(kernel.astype(patterns.dtype), grid, patterns[: int(number)], **of_sleep)
                for rule in rules
            ]
            for number in steps
        }
        return outputs, sleep.mean(kernel, grid, None, border='include'), asleep

    kernel = our_kernel(theirs['weights'])
    outputs, shared, asleep = program(theirs['x'].transpose(0, 2, 3, 1), kernel, patterns)
    y = theirs['y'].transpose(0, 2, 3, 1)
    for output in outputs:
        with_bias = output + theirs.get('bias', 0)
        np.testing.assert_allclose(with_bias, y, rtol=0, atol=LAYER_ERROR)
    at_once = our_kernel(theirs['weights_shared_instantly'])
    np.testing.assert_allclose(shared, at_once, rtol=0, atol=LAYER_ERROR)
    of_interior = interior_mean_over_std(kernel, grid)
    np.testing.assert_allclose(of_interior, theirs['snr_layer'], rtol=LAYER_ERROR)
    for number, by_rule in asleep.items():
        recorded = our_kernel(theirs[f'weights_hebbian_{number}'])
        error = LAYER_ERROR * np.abs(recorded).max()
        for ours in by_rule:
            np.testing.assert_allclose(ours, recorded, rtol=LAYER_ERROR, atol=error)


def our_kernel(weights):
    """(C // groups, O, Ho, Wo, kh, kw) -> (Ho, Wo, kh, kw, C // groups, O)."""
    return weights.transpose(2, 3, 4, 5, 0, 1)


def assert_close(theirs, **ours):
    for name, actual in ours.items():
        assert actual.shape == theirs[name].shape, name
        atol = SIMULATION_ERROR * np.abs(theirs[name]).max()
        np.testing.assert_allclose(
            actual, theirs[name], rtol=SIMULATION_ERROR, atol=atol, err_msg=name
        )


@each_recording('hebbian_sgd')
def test_plain_rule(path):
    theirs = dict(np.load(path))

    @compiled
    def program(start, patterns, gamma, momentum):
        return inverse_weight_snr(start), lateral.hebbian_sgd(
            start, patterns, gamma, momentum, observe=inverse_weight_snr
        )

    of_start, (final, inverse_snr) = program(
        *(theirs[name] for name in ('weights_init', 'patterns', 'gamma', 'momentum'))
    )
    inverse_snr = np.insert(inverse_snr, 0, of_start)
    assert_close(theirs, weights_final=final, inverse_snr=inverse_snr)


@pytest.mark.parametrize('simulate', [lateral.simulate, lateral.simulate_stepwise])
@each_recording('circuit')
@pytest.mark.slow
def test_circuit(path, simulate):
    theirs = dict(np.load(path))
    steps = int(theirs['steps_per_pattern'])
    parameters = lateral.Circuit(
        **{name: float(theirs[name]) for name in ('alpha', 'tau', 'b', 'momentum')},
        steps_per_pattern=steps,
    )

    def observe(weights, rates):
        return rates, inverse_weight_snr(weights)

    @compiled
    def program(start, patterns, gamma):
        found = simulate(start, patterns, gamma, parameters, observe=observe)
        return inverse_weight_snr(start), found

    of_start, (final, (rates, inverse_snr)) = program(
        *(theirs[name] for name in ('weights_init', 'patterns', 'gamma'))
    )
    inverse_snr = np.insert(inverse_snr, 0, of_start)
    if simulate is lateral.simulate_stepwise:
        rates = rates[steps - 1 :: steps]
    else:  # It only knows the weights at the end of every pattern.
        theirs['inverse_snr'] = theirs['inverse_snr'][::steps]
    assert_close(theirs, weights_final=final, rates_at_pattern_end=rates, inverse_snr=inverse_snr)
