# %% [markdown]
# # Your own sharing rule
#
# A sharing rule is a function of a kernel. This notebook writes one, looks at what it does to a
# layer, and trains with it.

# %%
import os
import tempfile
from importlib.metadata import version

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import lcn_jax
from lcn_jax.layer.parameters import he_normal
from lcn_jax.sleep import similarity
from lcn_jax.training import config as configs

devices = f'{jax.device_count()} × {jax.devices()[0].device_kind}'
print(f'lcn_jax {version("lcn_jax")}, JAX {jax.__version__}, {devices}')
folder = tempfile.mkdtemp()
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:  # the runs share compiled programs
    jax.config.update('jax_compilation_cache_dir', f'{folder}/cache')

# %% [markdown]
# ## The rule
#
# It gets
#
# - `kernel`, the weights `(Ho, Wo, kh, kw, C // groups, O)`: a convolution kernel for each output
#   position;
# - `neurons`, which knows where these positions are and which of them form a pool, that is, see the
#   same input during sleep;
# - `key`, for random numbers: a different one for every layer and every sleep, but the same on all
#   devices;
# - `border`, which says whether neurons that see the zero padding take part;
# - and its own options, by name.
#
# It returns the new kernel. A rule can call those of `lcn_jax`: `lcn_jax.mean` gives every neuron
# the mean weights of its pool, and `lcn_jax.exact` and `lcn_jax.hebbian` are the paper's
# plasticity.
#
# Our rule asks whether all neurons have to sleep at once. A random part of the positions takes the
# mean weights of their pool, and the others stay as they are.


# %%
def some_sleep(kernel, neurons, key, *, border, fraction):
    """Each position takes the mean weights of its pool with probability `fraction`."""
    asleep = jax.random.bernoulli(key, fraction, neurons.output_size)
    shared = lcn_jax.mean(kernel, neurons, key, border=border)
    return jnp.where(asleep[:, :, None, None, None, None], shared, kernel)


# %% [markdown]
# ## What it does to a layer
#
# We apply it to a layer of 3×3 kernels on a 16×16 image, with random weights. The pictures show the
# deviation of every position's weights from the mean of its pool, before and after one and three
# sleeps.

# %%
grid = lcn_jax.Grid.create(input_size=16, kernel_size=3)
kernel = he_normal(jax.random.key(0), (*grid.output_size, 3, 3, 8, 8))
after = [kernel]
for number in range(3):
    key = jax.random.key(number)
    after.append(some_sleep(after[-1], grid, key, border='include', fraction=0.5))

figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout='constrained')
for ax, sleeps in zip(axes, (0, 1, 3)):
    deviation = similarity.deviation(after[sleeps], grid, border='include').mean(-1)
    image = ax.imshow(np.asarray(deviation), vmin=0, vmax=kernel.std())
    ax.set_title(f'after {sleeps} sleeps')
figure.colorbar(image, ax=axes, label='deviation')
plt.show()

# %% [markdown]
# ## Training with it
#
# A config names a rule as `module:function`, with its options under the name of the function. A
# function in a notebook is in `__main__`; in a project, put it in a file.
#
# If you change the rule, restart the notebook, which has compiled the old one, and train in another
# folder: a folder that holds a finished run is not trained again.

# %%
records = {}
for fraction in (0.0, 0.25, 1.0):
    config = configs.apply_kind(configs.default(), 'lc')
    config.sleep.rule = '__main__:some_sleep'
    config.sleep['some_sleep'] = {'fraction': fraction}
    config.data_dir = f'{folder}/data'
    config.model.stage_sizes, config.model.width = (1,), 8
    config.batch_size = 48  # for 1, 2, 4 or 8 devices
    config.epochs = 12
    config.learning_rate = 1e-2
    config.sleep.every = config.log_every = 5
    config.checkpoint_every = 0
    records[fraction] = []
    result = lcn_jax.train_and_evaluate(config, f'{folder}/{fraction}', records[fraction].append)
    accuracy = f'{result["test_top1"]:.1%}'
    print(f'{fraction:4.0%} of the positions sleep: test accuracy {accuracy}')

# %% [markdown]
# Where all weights of a pool are equal, the weight SNR is infinite and the line ends.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout='constrained')
for fraction, of_fraction in records.items():
    tested = [(r['epoch'], 100 * r['test_top1']) for r in of_fraction if 'test_top1' in r]
    left.plot(*zip(*tested), label=f'{fraction:.0%} asleep')
    snrs = [(r['epoch'], r['weight_snr_before_sleep']) for r in of_fraction]
    right.plot(*zip(*snrs), label=f'{fraction:.0%} asleep')
left.set(xlabel='epoch', ylabel='test accuracy (%)', ylim=(0, 100))
right.set(xlabel='epoch', ylabel='weight SNR before each sleep', yscale='log')
left.legend()
plt.show()
