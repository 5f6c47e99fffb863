"""How smooth the sheets of a network are, by a loop over neurons, and the table made of it."""

import numpy as np
import pytest
import tiny_all_tnn

from experiments.measure import smoothness
from experiments.reports import smooth_and_alike as report
from lcn_jax.learning.penalties import sheet


def test_cosines_of_neighbours_are_those_of_a_loop():
    network = tiny_all_tnn.trained()
    variables, found = network.variables, smoothness.cosines(network)
    assert list(found) == ['conv1', 'conv2']
    for name, cosine in found.items():
        kernel, bias = (variables['params'][name][key] for key in ('kernel', 'bias'))
        of_neurons = np.moveaxis(kernel.reshape(*kernel.shape[:2], -1, kernel.shape[-1]), 2, 3)
        weights = sheet(np.concatenate([of_neurons, bias[..., None]], axis=-1))
        rows, columns, _ = weights.shape
        by_direction = []
        for down, right in ((0, 1), (1, 0)):
            pairs = [
                (weights[i, j], weights[(i + down) % rows, (j + right) % columns])
                for i, j in np.ndindex(rows, columns)
            ]
            one, other = (np.array(side) for side in zip(*pairs))
            sizes = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
            by_direction.append(((one * other).sum(1) / sizes).mean())
        assert cosine == pytest.approx(np.mean(by_direction), abs=1e-5)


def record(alpha, sleep, seed, accuracy, near):
    share = {f'layer{layer}': {'neighbours': near, 'any': 0.125} for layer in range(1, 7)}
    return {
        'point': {'alpha': alpha, 'sleep': sleep, 'seed': seed},
        'test_top1': accuracy,
        'weight_deviation': 0.5,
        'cosines': {f'conv{layer}': layer / 10 for layer in range(1, 7)},
        'orientation': share,
        'class': share | {'layer1': {'neighbours': near + 0.05, 'any': 0.125}},
    }


def test_the_table_and_the_pictures():
    records = [record(0, 'none', seed, 0.5 + seed / 50, 0.25) for seed in (0, 1)]
    records.append(record(10, 'ws(10)', 0, 0.4, 0.5))
    rows = report.markdown(records).splitlines()[2:]
    assert rows == [
        '| 0 | no sleep | 51.0 ± 1.4 | 0.30 | 25.0 ± 0.0 (12) | 26.0 ± 0.0 (12) | 0.5 | 2 |',
        '| 10 | ws(10), joined pools | 40.0 | 0.30 | 50.0 (12) | 51.0 (12) | 0.5 | 1 |',
    ]
    lines = report.draw(records).axes[0].get_lines()
    assert lines[0].get_xydata().tolist() == [[0, 51]]
    maps = {name: np.ones((2, 3, 6)) for name in ('preference', 'strength')}
    figure = report.draw_maps({(a, s): maps for a in report.ALPHAS for s in report.SLEEPS})
    assert figure.axes[5].get_title().startswith('α = 10, ws(10): 2 × 3 positions')
