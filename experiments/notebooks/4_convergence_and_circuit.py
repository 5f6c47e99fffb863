# %% [markdown]
# # The convergence figure, and the circuit
#
# How do neurons come to have the same weights? The plain rule needs every neuron to know the mean
# activity of its pool. In the paper's circuit, a single inhibitory neuron computes it. This
# notebook shows the circuit at work, and how fast the rule and the circuit make the weights alike.

# %%
from importlib.metadata import version

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from lcn_jax.sleep import lateral
from lcn_jax.sleep.similarity import weight_snr

devices = f'{jax.device_count()} × {jax.devices()[0].device_kind}'
print(f'lcn_jax {version("lcn_jax")}, JAX {jax.__version__}, {devices}')

# %% [markdown]
# ## The circuit
#
# The rates $r_i$ of the neurons of a pool and the rate $r_{inh}$ of one inhibitory neuron follow
#
# $$\tau \dot r_i = -r_i + w_i \cdot x - \alpha r_{inh} + b, \qquad
# \tau \dot r_{inh} = -r_{inh} + \frac{1}{N} \sum_j r_j - b$$
#
# At rest, $r_i - b = z_i - \bar z + \bar z / (1 + \alpha)$, where $z_i = w_i \cdot x$ and $\bar z$
# is their mean: the activity of a neuron says by how much it differs from its pool. Here, eight
# neurons with random weights see a pattern, without plasticity. The dotted lines are the rates at
# rest.

# %%
weights_key, pattern_key = jax.random.split(jax.random.key(1))
weights = 1 + jax.random.normal(weights_key, (8, 9))
pattern = jax.random.normal(pattern_key, (1, 9)) / 3
still = lateral.Circuit(learning_rate=jnp.zeros_like)
_, rates = lateral.simulate_stepwise(weights, pattern, 0.0, still, observe=lambda w, r: r)

plt.figure(figsize=(7, 3.6), layout='constrained')
plt.plot(rates[:, :-1], color='tab:blue', alpha=0.7)
plt.plot(rates[:, -1], color='tab:red', label='inhibitory neuron')
for rest in lateral.steady_rates(weights, pattern[0], still):
    plt.axhline(rest, color='0.4', ls=':', lw=1)
plt.xlabel('time step')
plt.ylabel('rate')
plt.legend()
plt.show()

# %% [markdown]
# ## Plasticity
#
# Weights change against this activity and are held by an anchor of strength $\gamma$:
# $\Delta w_i \propto -(r_i - b)\, x - \gamma\, (w_i - w_i^{init})$. Each curve below is a weight of
# one of 20 neurons, and each colour is one of three inputs. Pattern by pattern, the weights come
# together.

# %%
weights = 1 + jax.random.normal(weights_key, (20, 9))
patterns = jax.random.normal(pattern_key, (1000, 9))
_, (traces, snrs) = lateral.simulate(
    weights, patterns, 1e-3, lateral.Circuit(), observe=lambda w, r: (w[:, :3], weight_snr(w))
)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout='constrained')
for number, colour in enumerate(('tab:blue', 'tab:orange', 'tab:green')):
    left.plot(traces[:, :, number], color=colour, lw=0.8, alpha=0.7)
left.set(xlabel='patterns shown', ylabel='weight')
right.plot(snrs)
right.set(xlabel='patterns shown', ylabel='weight SNR', xscale='log', yscale='log')
plt.show()

# %% [markdown]
# ## The convergence figure
#
# This is the paper's figure with fewer kernels and patterns and a single trial: the weight SNR
# against the number of patterns. The plain rule climbs to its fixed point (dashed). The circuit
# stays below it, because its inhibition is finite and the mean weight decays, too.
# `make convergence` draws the whole figure.


# %%
def plain_rule(weights, patterns, gamma):
    return lateral.hebbian_sgd(weights, patterns, gamma, observe=weight_snr)[1]


def lateral_circuit(weights, patterns, gamma):
    parameters = lateral.Circuit()
    return lateral.simulate(
        weights, patterns, gamma, parameters, observe=lambda w, r: weight_snr(w)
    )[1]


# %%
gammas = np.array([1e-1, 1e-2, 1e-3], np.float32)
figure, axes = plt.subplots(2, 2, figsize=(9, 7), sharey=True, layout='constrained')
for column, k in zip(axes.T, (3, 6)):
    weights = 1 + jax.random.normal(weights_key, (100, k * k))
    patterns = jax.random.normal(pattern_key, (1500, k * k))
    for ax, rule in zip(column, (plain_rule, lateral_circuit)):
        all_snrs = jax.jit(jax.vmap(rule, (None, None, 0)))(weights, patterns, gammas)
        for gamma, snrs in zip(gammas, all_snrs):
            (line,) = ax.loglog(1 + np.arange(len(snrs)), snrs, label=f'γ = {gamma:g}')
            fixed_point = weight_snr(weights) * (1 + 1 / gamma) ** 2
            ax.axhline(fixed_point, color=line.get_color(), ls='--', lw=1)
        ax.set(title=f'{rule.__name__.replace("_", " ")}, {k}×{k} inputs')
        ax.set(xlabel='patterns shown', ylabel='weight SNR')
axes[0, 0].legend()
plt.show()
