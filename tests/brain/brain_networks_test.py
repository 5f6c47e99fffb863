"""Scores of networks over seeds: intervals, table and picture, of correlations made by hand."""

import types

import numpy as np
import pytest
from matplotlib.colors import to_hex

from experiments.reports import brain_networks, brain_picture
from experiments.reports.style import COLOURS
from lcn_jax.brain.scores import difference
from lcn_jax.training import config as configs


def run(seed, step=9, **changes):
    config = configs.default()
    config.seed = seed
    config.update_from_flattened_dict(changes)
    return types.SimpleNamespace(config=config, step=step)


def constant(*values):
    """Correlations (2, N), the same in both splits."""
    return np.array([values, values])


class TestGroups:
    def test_a_network_is_what_differs_in_the_seed_only(self):
        """Where the data lies makes no other network."""
        runs = {
            'lc-1': run(1, connectivity='lc'),
            'conv-0': run(0),
            'lc-0': run(0, connectivity='lc', data_dir='/elsewhere'),
            'slow-0': run(0, learning_rate=1e-4),
        }
        networks = brain_networks.group(runs)
        assert networks == {
            'lc': {0: 'lc-0', 1: 'lc-1'},
            'conv': {0: 'conv-0'},
            'slow': {0: 'slow-0'},
        }
        assert list(networks['lc']) == [0, 1]

    def test_a_run_that_has_not_got_as_far_is_another_network(self):
        runs = {'conv-0': run(0), 'conv-1': run(1, step=4), 'conv-2': run(2)}
        networks = brain_networks.group(runs)
        assert list(networks.values()) == [{0: 'conv-0', 2: 'conv-2'}, {1: 'conv-1'}]

    def test_a_run_that_repeats_a_seed_is_another_network(self):
        runs = {'conv-0': run(0), 'again': run(0), 'conv-1': run(1), 'others-1': run(1)}
        assert brain_networks.group(runs) == {
            'conv': {0: 'conv-0', 1: 'conv-1'},
            'again': {0: 'again', 1: 'others-1'},
        }

    def test_networks_of_one_name_have_the_whole_names_of_their_first_runs(self):
        """Only '-SEED' with the seed of the config is left out."""
        runs = {'conv-0': run(0), 'conv-1': run(1, batch_size=3), 'lc-7': run(0, connectivity='lc')}
        assert list(brain_networks.group(runs)) == ['conv-0', 'conv-1', 'lc-7']
        del runs['conv-1']
        assert list(brain_networks.group(runs)) == ['conv', 'lc-7']


class TestComparison:
    def test_means_and_paired_intervals_are_those_computed_by_hand(self):
        networks = {
            'none': {0: 'none-0'},
            'conv': {0: 'conv-0', 1: 'conv-1', 2: 'conv-2'},
            'lc': {0: 'lc-0', 1: 'lc-1', 2: 'lc-2', 3: 'lc-3', 4: 'lc-4'},
        }
        conv = {f'conv-{seed}': constant(0.5 + 0.02 * seed) for seed in range(3)}
        # Differences -0.1, -0.12, -0.14; lc-3 counts for the mean alone, lc-4 was not scored.
        lc = {'lc-0': constant(0.4), 'lc-1': constant(0.4), 'lc-2': constant(0.4)}
        found = brain_networks.compare(networks, conv | lc | {'lc-3': constant(0.48)})
        assert list(found) == ['conv', 'lc']
        assert found['conv'] == {
            'runs': {0: 'conv-0', 1: 'conv-1', 2: 'conv-2'},
            'n': 3,
            'by_seed': pytest.approx({0: 0.5, 1: 0.52, 2: 0.54}),
            'mean': pytest.approx(0.52),
            'std': pytest.approx(0.02),
        }
        assert found['lc']['runs'] == {0: 'lc-0', 1: 'lc-1', 2: 'lc-2', 3: 'lc-3'}
        assert found['lc']['n'] == 4 and found['lc']['mean'] == pytest.approx(0.42)
        assert found['lc']['std'] == pytest.approx(0.04)
        assert found['lc']['reference'] == 'conv'
        compared = found['lc']['difference']
        # Standard error 0.02 / sqrt(3); t = 4.3027 at two degrees of freedom.
        assert compared['mean'] == pytest.approx(-0.12)
        assert compared['half_width'] == pytest.approx(4.3027 * 0.02 / 3**0.5, abs=1e-6)
        assert compared['over_neurons']['difference'] == pytest.approx(-0.12)

    def test_neurons_are_resampled_of_their_means_over_seeds(self):
        """The medians of both seeds are 0; those of the means over seeds (0.3, 0, 0.45), 0.3.

        Of three neurons that are drawn, at least two are the lowest in 7 of 27 cases, and so are
        they the highest: the interval reaches from one to the other.
        """
        correlations = {
            'conv-0': constant(0.5, 0.5, 0.5),
            'conv-1': constant(0.7, 0.7, 0.7),
            'lc-0': constant(0.6, 0, 0),
            'lc-1': constant(0, 0, 0.9),
        }
        networks = {name: {0: f'{name}-0', 1: f'{name}-1'} for name in ('conv', 'lc')}
        lc = brain_networks.compare(networks, correlations)['lc']
        assert lc['mean'] == 0 and lc['difference']['mean'] == pytest.approx(-0.6)
        over_neurons = lc['difference']['over_neurons']
        assert over_neurons['difference'] == pytest.approx(0.3 - 0.6)
        assert over_neurons['difference_interval'] == pytest.approx((-0.6, 0.45 - 0.6))

    def test_a_single_seed_has_the_interval_over_neurons_alone(self):
        random = np.random.default_rng(0)
        conv, lc = random.normal(size=(2, 10, 6))
        networks = {'conv': {0: 'conv-0'}, 'lc': {0: 'lc-0'}, 'late': {1: 'late-1'}}
        runs = {'conv-0': conv, 'lc-0': lc, 'late-1': lc}
        found = brain_networks.compare(networks, runs)
        assert found['conv']['n'] == 1 and found['conv']['std'] is None
        compared = found['lc']['difference']
        assert compared['half_width'] is None
        assert compared['over_neurons'] == difference(conv, lc)
        assert compared['mean'] == pytest.approx(compared['over_neurons']['difference'])
        assert found['late']['difference'] is None  # no common seed


def layer(score):
    return {'score': score, 'interval': (score - 0.1, score + 0.2)}


def make_region():
    """Two seeds of conv and one of another network, which cannot be scored in its second layer."""
    runs = {
        'conv-0': {'layers': {'one': layer(0.5), 'two': layer(0.6)}},
        'conv-1': {'layers': {'one': layer(0.7), 'two': layer(0.6)}},
        'mine-0': {'layers': {'one': layer(0.3), 'two': {'error': 'constant'}}},
        'gone': {'error': 'holds no run'},
    }
    networks = {
        'conv': {'runs': {0: 'conv-0', 1: 'conv-1'}, 'n': 2, 'mean': 0.6, 'std': 0.1414},
        'mine': {
            'runs': {0: 'mine-0'},
            'n': 1,
            'mean': 0.3,
            'std': None,
            'difference': {
                'mean': -0.2,
                'half_width': None,
                'over_neurons': {'difference': -0.2, 'difference_interval': (-0.2504, 0.0312)},
            },
        },
    }
    known = {'neurons': 9, 'ceiling': 0.8, 'ceiling_interval': (0.7, 0.9)}
    return known | {'runs': runs, 'networks': networks}


class TestTable:
    MADE = {'commit': 'abc', 'device': 'cpu', 'jax': '1'}

    def table(self, test_top1):
        regions = {'MT': {'error': 'too few repetitions'}, 'V4': make_region()}
        report = {'regions': regions, 'test_top1': test_top1}
        title, _, *lines, _, note = brain_networks.markdown(report | self.MADE).splitlines()
        assert title == '**V4, 9 neurons**'
        assert note.endswith('Scored at commit abc; cpu, JAX 1.')
        return lines

    def test_networks_have_rows_with_both_intervals(self):
        assert self.table({'conv-0': 0.8, 'conv-1': 0.82, 'mine-0': 0.5}) == [
            '| network | test accuracy, % | score | n | difference to conv | over neurons |',
            '| --- | ---: | ---: | ---: | ---: | ---: |',
            '| conv | 81.0 ± 1.4 | 0.600 ± 0.141 | 2 |  |  |',
            '| mine | 50.0 | 0.300 | 1 | −0.200 | [−0.250, 0.031] |',
        ]

    def test_accuracies_that_not_all_seeds_have_are_left_out(self):
        head, _, conv, _ = self.table({'conv-1': 0.82})
        assert head == '| network | score | n | difference to conv | over neurons |'
        assert conv == '| conv | 0.600 ± 0.141 | 2 |  |  |'


class TestPicture:
    def test_lines_are_means_over_seeds(self):
        figure = brain_picture.plot({'MT': {'error': 'too few repetitions'}, 'V4': make_region()})
        by_depth, differences = figure.axes
        lines = {container.get_label(): container for container in by_depth.containers}
        assert list(lines) == ['conv', 'mine']
        conv, mine = (line.lines for line in lines.values())
        assert to_hex(conv[0].get_color()) == COLOURS['conv']
        np.testing.assert_allclose(conv[0].get_ydata(), [0.6, 0.6])
        np.testing.assert_allclose(mine[0].get_ydata(), [0.3, np.nan])

        def bars(line):
            return np.array([path.vertices[:, 1] for path in line[2][0].get_paths()])

        spread = 0.1 * 2**0.5  # of 0.5 and 0.7, as of a sample
        np.testing.assert_allclose(bars(conv), [[0.6 - spread, 0.6 + spread], [0.6, 0.6]])
        np.testing.assert_allclose(bars(mine)[0], [0.2, 0.5])  # the interval over neurons
        (over_neurons,) = differences.containers
        assert over_neurons.lines[0].get_xdata() == [-0.2]
        assert [text.get_text() for text in differences.get_yticklabels()] == ['mine']

    def test_networks_of_one_colour_have_different_lines(self):
        region = make_region()
        first, other = region['networks'].values()
        names = ('lc_mean1_joined', 'lc_mean10_joined')
        by_depth, _ = brain_picture.plot(
            {'V4': region | {'networks': dict(zip(names, (first, other)))}}
        ).axes
        lines = [container.lines[0] for container in by_depth.containers]
        assert [container.get_label() for container in by_depth.containers] == [
            'LC, ws(1), mean, joined pools',
            'LC, ws(10), mean, joined pools',
        ]
        assert len({line.get_color() for line in lines}) == 1
        assert len({line.get_linestyle() for line in lines}) == 2
        assert len({line.get_marker() for line in lines}) == 2

    def test_the_picture_has_the_names_of_all_layers(self):
        region = make_region()
        names = {'first': ('stage1_block1', 'top'), 'second': ('conv', 'top', 'last')}
        region['runs'] = {
            run: {'layers': {name: layer(0.5) for name in names[run]}} for run in names
        }
        conv, mine = region['networks'].values()
        conv['runs'], mine['runs'] = {0: 'first'}, {0: 'second'}
        by_depth, _ = brain_picture.plot({'V4': region}).axes
        labels = [label.get_text() for label in by_depth.get_xticklabels()]
        assert labels == ['stage1\nblock1\nor conv', 'top', 'last']

    def test_a_single_network_has_no_differences(self):
        region = make_region()
        del region['networks']['mine']
        assert len(brain_picture.plot({'V4': region}).axes) == 1
