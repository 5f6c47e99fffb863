"""The scores of networks that were trained with several seeds, and their table.

Two intervals say how far a difference between networks can be trusted: one over seeds, for other
trainings of the same networks, and one over neurons, for other neurons of the same region.
"""

import itertools
import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.reports.comparison import compared_fields
from experiments.reports.rows import label_of
from experiments.reports.style import bounds, cell, table
from experiments.reports.table import difference_text, mean_text, over_seeds, paired
from lcn_jax.brain.predictivity import aggregate
from lcn_jax.brain.scores import difference
from lcn_jax.trained.load import Trained

NOTE = (
    'Scores of the best blocks: mean ± standard deviation over n seeds. Differences are paired '
    'over the seeds that both networks have, with the half width of their 95 % interval over '
    'seeds; in brackets the 95 % bootstrap interval over neurons.'
)


def group(runs: Mapping[str, Trained]) -> dict[str, dict[int, str]]:
    """The names of the runs of each network, by seed.

    Runs at the same step whose configs differ only in the seed are of one network; a run that
    repeats a seed is another network. The name of a network is that of its lowest seed without
    '-SEED' at the end, or the whole one if two networks would get the same.
    """
    groups = defaultdict(dict)
    for name, run in runs.items():
        fields = json.dumps(compared_fields(run.config), sort_keys=True)
        seed = run.config.seed
        copy = next(n for n in itertools.count() if seed not in groups[fields, run.step, n])
        groups[fields, run.step, copy][seed] = name
    by_seed = [dict(sorted(of_network.items())) for of_network in groups.values()]
    firsts = [next(iter(of_network.items())) for of_network in by_seed]
    names = [name.removesuffix(f'-{seed}') for seed, name in firsts]
    if len(set(names)) < len(names):
        names = [name for _, name in firsts]
    return dict(zip(names, by_seed))


def compare(
    networks: Mapping[str, Mapping[int, str]], correlations: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """The scores of each network by seed, and its difference to the first network.

    networks: as of `group`. correlations: (SPLITS, N) of the best block of each run that can be
    scored; other runs are left out, and so are networks without any.

    Returns:
      For each network 'runs', their names by seed, n, and what `table.over_seeds` has. All but the
      first have 'reference' and 'difference', None without a common seed: that of `table.paired`,
      and 'over_neurons', as of `scores.difference`, for the means of every neuron's correlations
      over the common seeds.
    """
    scored = {
        name: {seed: correlations[run] for seed, run in runs.items() if run in correlations}
        for name, runs in networks.items()
    }
    scored = {name: own for name, own in scored.items() if own}
    found = {}
    for name, own in scored.items():
        runs = {seed: networks[name][seed] for seed in own}
        found[name] = {'runs': runs, 'n': len(runs)} | over_seeds(_scores(own))
        reference = next(iter(found))
        if name != reference:
            compared = _difference(own, scored[reference])
            found[name] |= {'reference': reference, 'difference': compared}
    return found


def _scores(of_network: Mapping[int, np.ndarray]) -> dict[int, float]:
    return {seed: float(aggregate(values)) for seed, values in of_network.items()}


def _difference(own, first) -> dict[str, Any] | None:
    compared = paired(_scores(own), _scores(first))
    if compared is None:
        return None
    common = [seed for seed in own if seed in first]
    means = [np.mean([of_network[seed] for seed in common], 0) for of_network in (first, own)]
    return compared | {'over_neurons': difference(*means)}


def markdown(report: Mapping[str, Any]) -> str:
    """A table of the networks for each region, without columns that would be empty.

    report: what is in brain_score.json.
    """
    parts = []
    for name, region in report['regions'].items():
        if networks := region.get('networks'):
            first = label_of(next(iter(networks)))
            rows = [
                _row(label, network, first, report['test_top1'])
                for label, network in networks.items()
            ]
            heads = [head for head in rows[0] if any(row[head] for row in rows)]
            cells = [[row[head] for head in heads] for row in rows]
            parts.append(f'**{name}, {region["neurons"]} neurons**\n\n{table(heads, cells)}\n')
    made = f'Scored at commit {report["commit"]}; {report["device"]}, JAX {report["jax"]}.'
    return '\n'.join([*parts, f'{NOTE} {made}\n'])


def _row(name, network, first, test_top1) -> dict[str, str]:
    """The cells of a network by their heads."""
    accuracies = [100 * test_top1[run] for run in network['runs'].values() if run in test_top1]
    compared = network.get('difference')
    over_neurons = bounds(compared['over_neurons']['difference_interval']) if compared else ''
    return {
        'network': label_of(name),
        'test accuracy, %': cell(accuracies) if len(accuracies) == network['n'] else '',
        'score': mean_text(network, 3),
        'n': str(network['n']),
        f'difference to {first}': difference_text(compared, 3),
        'over neurons': over_neurons.replace('-', '−'),
    }
