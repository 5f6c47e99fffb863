"""The convergence figure, and what it says of the circuit."""

import json

import matplotlib.image
import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import convergence


@pytest.mark.slow
def test_quick_figure(tmp_path):
    with flagsaver.as_parsed(out=str(tmp_path / 'figure'), quick='true'):
        convergence.main([])

    image = matplotlib.image.imread(tmp_path / 'figure/convergence.png')
    assert min(image.shape[:2]) > 300
    assert image.std() > 0.01

    report = json.loads((tmp_path / 'figure/convergence.json').read_text())
    settings = report['settings']
    assert settings['circuit']['alpha'] == 10
    drawn = {(curve['rule'], curve['kernel'], curve['gamma']) for curve in report['curves']}
    assert drawn == {
        (rule, kernel, gamma)
        for rule in ('hebbian', 'circuit')
        for kernel in settings['kernels']
        for gamma in settings['gammas']
    }
    for curve in report['curves']:
        assert curve['patterns'][-1] == settings[f'{curve["rule"]}_patterns']
        assert len(curve['snr_mean']) == len(curve['snr_std']) == len(curve['patterns'])
        assert curve['snr_mean'][-1] > 2 * curve['snr_initial']
        gain = curve['snr_fixed_point'] / curve['snr_initial']
        assert gain == pytest.approx((1 + 1 / curve['gamma']) ** 2, rel=1e-6)


def test_activity_over_a_pattern_is_near_the_steady_state():
    # Of a deviation, exp(-t / tau) has yet to arrive t after the onset.
    mean_decay, deviation_decay = convergence.circuit_decays()
    assert deviation_decay == pytest.approx(1 - 30 / 150 * (1 - np.exp(-150 / 30)), abs=0.01)
    assert mean_decay == pytest.approx(1 / 11, abs=0.02)
