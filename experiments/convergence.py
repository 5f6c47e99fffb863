"""The convergence figure: how the plain rule and the lateral circuit equalise a pool's weights.

    python -m experiments.convergence --out=experiments/results/convergence

A pool of 100 neurons with weights 1 + N(0, 1) sees Gaussian patterns of k x k inputs. The figure
shows the weight SNR against the number of patterns, for k in {3, 6, 9} and three strengths gamma of
the anchor: mean and standard deviation of 10 trials (Pogodin et al., NeurIPS 2021). Dashed is the
fixed point of the rule if the pool's mean stays, as under the plain rule. Dotted is that of the
circuit, whose inhibition is finite, so that the mean decays, too.

Writes convergence.png and convergence.json in about a minute on two CPU cores, in float32; compared
with float64, no point of a curve moves by more than 1e-3 of its value.
"""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from absl import flags
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.common import cli
from experiments.common.provenance import provenance
from lcn_jax.files import local_folder, make_folder, to_json, write_text, writing
from lcn_jax.sleep import lateral
from lcn_jax.sleep.similarity import weight_snr

OUT = flags.DEFINE_string('out', 'experiments/results/convergence', 'Folder for the PNG and JSON.')
QUICK = flags.DEFINE_bool('quick', False, 'Only a few patterns and trials, in seconds.')

CIRCUIT = lateral.Circuit()
TITLES = {'hebbian': 'plain Hebbian rule', 'circuit': 'lateral circuit'}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The extent of the simulations, recorded in the JSON."""

    kernels: tuple[int, ...] = (3, 6, 9)
    gammas: tuple[float, ...] = (1e-1, 1e-2, 1e-3)
    trials: int = 10
    neurons: int = 100
    hebbian_patterns: int = 2_000
    circuit_patterns: int = 10_000
    points: int = 120  # of each curve in the JSON, spaced logarithmically
    seed: int = 0


QUICK_SETTINGS = Settings(kernels=(3,), trials=2, hebbian_patterns=60, circuit_patterns=30)


def hebbian_snr(weights, patterns, gamma):
    """Weight SNR (P,) of one pool after every pattern of the plain rule."""
    return lateral.hebbian_sgd(weights, patterns, gamma, observe=weight_snr)[1]


def circuit_snr(weights, patterns, gamma):
    """Weight SNR (P,) of one pool after every pattern shown to the circuit."""
    return lateral.simulate(
        weights, patterns, gamma, CIRCUIT, observe=lambda weights, rates: weight_snr(weights)
    )[1]


def fixed_point_gain(gamma, mean_decay=0.0, deviation_decay=1.0):
    """The weight SNR at the fixed point divided by the initial one, for Gaussian patterns.

    The pool's mean shrinks to gamma / (mean_decay + gamma) of itself, and the deviations from it to
    gamma / (deviation_decay + gamma). By default the mean stays, as under the plain rule.
    """
    return ((deviation_decay + gamma) / (mean_decay + gamma)) ** 2


def circuit_decays():
    """The circuit's activity r - b per unit of z, averaged over one pattern from its onset.

    Returns the response to the mean z of the pool, and to a neuron's deviation from that mean. But
    for the transient at the onset they are those of the steady state, 1 / (1 + alpha) and 1.
    """
    still = dataclasses.replace(CIRCUIT, plastic_from=CIRCUIT.steps_per_pattern)

    def mean_rates(z):
        weights, x, gamma = z[:, None], jnp.ones((1, 1)), 0.0
        _, rates = lateral.simulate_stepwise(weights, x, gamma, still, observe=lambda _, r: r)
        return rates[:, :-1].mean(0)

    high, low = mean_rates(jnp.array([2.0, 0.0])) - mean_rates(jnp.zeros(2))
    return float(high + low) / 2, float(high - low) / 2


@functools.partial(jax.jit, static_argnums=0)
def over_trials_and_gammas(pool_snr, weights, patterns, gammas):
    """`pool_snr` for weights (T, N, K), patterns (T, P, K) and gammas (G,): (G, T, P)."""
    trials = jax.vmap(pool_snr, (0, 0, None))
    return jax.vmap(trials, (None, None, 0))(weights, patterns, gammas)


def curves(rule: str, kernel: int, settings: Settings) -> list[dict]:
    """Simulates all trials of one rule and kernel size; returns a record for each gamma."""
    pool_snr, patterns_shown = {
        'hebbian': (hebbian_snr, settings.hebbian_patterns),
        'circuit': (circuit_snr, settings.circuit_patterns),
    }[rule]
    decays = circuit_decays() if rule == 'circuit' else ()
    weights_key, patterns_key = jax.random.split(
        jax.random.fold_in(jax.random.key(settings.seed), kernel)
    )
    shape = (settings.trials, settings.neurons, kernel**2)
    weights = 1 + jax.random.normal(weights_key, shape)
    patterns = jax.random.normal(patterns_key, (settings.trials, patterns_shown, kernel**2))
    snr = np.asarray(
        over_trials_and_gammas(pool_snr, weights, patterns, jnp.array(settings.gammas))
    )
    shown = np.unique(np.geomspace(1, patterns_shown, settings.points).round().astype(int))
    initial = float(weight_snr(weights).mean())
    return [
        {
            'rule': rule,
            'kernel': kernel,
            'gamma': gamma,
            'patterns': shown.tolist(),
            'snr_mean': _rounded(of_gamma.mean(0)[shown - 1]),
            'snr_std': _rounded(of_gamma.std(0, ddof=1)[shown - 1]),
            'snr_initial': initial,
            'snr_fixed_point': initial * fixed_point_gain(gamma),
            'snr_fixed_point_of_rule': initial * fixed_point_gain(gamma, *decays),
        }
        for gamma, of_gamma in zip(settings.gammas, snr, strict=True)
    ]


def plot(records: list[dict], settings: Settings) -> Figure:
    """A row for each rule, a column for each kernel size, a colour for each gamma."""
    figure = Figure(figsize=(3.6 * len(settings.kernels) + 1, 7), layout='constrained')
    axes = figure.subplots(len(TITLES), len(settings.kernels), sharey=True, squeeze=False)
    colours = dict(zip(settings.gammas, matplotlib.color_sequences['tab10'], strict=False))
    rows, columns = list(TITLES), list(settings.kernels)
    for record in records:
        ax = axes[rows.index(record['rule']), columns.index(record['kernel'])]
        shown, mean, std = (np.array(record[name]) for name in ('patterns', 'snr_mean', 'snr_std'))
        colour = colours[record['gamma']]
        ax.plot(shown, mean, color=colour, label=f'γ = {record["gamma"]:g}')
        # A standard deviation up, and as far down on the logarithmic axis: never below 0.
        ax.fill_between(shown, mean / (1 + std / mean), mean + std, color=colour, alpha=0.25, lw=0)
        ax.axhline(record['snr_fixed_point'], color=colour, ls='--', lw=1)
        if record['rule'] == 'circuit':
            ax.axhline(record['snr_fixed_point_of_rule'], color=colour, ls=':', lw=1.2)
    for row, rule in zip(axes, rows, strict=True):
        for ax, kernel in zip(row, columns, strict=True):
            ax.set(xscale='log', yscale='log', title=f'{TITLES[rule]}, k = {kernel}')
            ax.set_xlabel('patterns shown')
            ax.grid(alpha=0.3)
        row[0].set_ylabel('weight SNR')
    handles, _ = axes[0, 0].get_legend_handles_labels()
    kept, decayed = 'fixed point, mean kept', f'fixed point of the circuit, α = {CIRCUIT.alpha:g}'
    handles.append(Line2D([], [], color='0.3', ls='--', lw=1, label=kept))
    handles.append(Line2D([], [], color='0.3', ls=':', lw=1.2, label=decayed))
    figure.legend(handles=handles, loc='outside lower center', ncols=len(handles))
    return figure


def main(argv):
    del argv
    out = local_folder('--out', OUT.value)
    make_folder(out)
    settings = QUICK_SETTINGS if QUICK.value else Settings()
    start = time.monotonic()
    records = []
    for rule in TITLES:
        for kernel in settings.kernels:
            records += curves(rule, kernel, settings)
            print(f'{rule}, k = {kernel}: done at {time.monotonic() - start:.0f} s')
    with writing(out / 'convergence.png'):
        plot(records, settings).savefig(out / 'convergence.png', dpi=130)
    report = {
        'settings': dataclasses.asdict(settings) | {'circuit': _described(CIRCUIT)},
        **provenance(),
        'seconds': round(time.monotonic() - start, 1),
        'curves': records,
    }
    write_text(out / 'convergence.json', to_json(report))
    print(f'{out} is written')


def _rounded(values):
    return [float(f'{value:.5g}') for value in values]


def _described(parameters: lateral.Circuit) -> dict:
    values = dataclasses.asdict(parameters)
    return values | {'learning_rate': parameters.learning_rate.__name__}


if __name__ == '__main__':
    cli.run(main)
