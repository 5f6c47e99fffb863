# %% [markdown]
# # The idea in pictures
#
# A convolutional network uses the same weights at every position of the image. Neurons cannot do
# that: each neuron has its own synapses. A *locally connected* (LC) network has the receptive
# fields of a convolutional one, but separate weights at every position. That is more plausible, but
# it has many more parameters and learns much less from the same images.
#
# Pogodin, Mehta, Lillicrap and Latham ([NeurIPS 2021](https://arxiv.org/abs/2106.13031)) let such a
# network sleep from time to time. During sleep, lateral connections show many neurons the same
# input, and Hebbian plasticity makes their weights alike. This notebook shows it on handwritten
# digits.

# %%
import os
import tempfile
from importlib.metadata import version

import jax
import matplotlib.pyplot as plt
import numpy as np

import lcn_jax
from lcn_jax.data import sources
from lcn_jax.sleep import similarity
from lcn_jax.sleep.pools import pool_numbers
from lcn_jax.training import config as configs

devices = f'{jax.device_count()} × {jax.devices()[0].device_kind}'
print(f'lcn_jax {version("lcn_jax")}, JAX {jax.__version__}, {devices}')
folder = tempfile.mkdtemp()
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:  # the runs share compiled programs
    jax.config.update('jax_compilation_cache_dir', f'{folder}/cache')

# %% [markdown]
# ## The task
#
# Real digits, each somewhere on an empty canvas. A convolutional network that recognises an edge at
# one position recognises it everywhere. A locally connected one has to learn it at each position.

# %%
images = sources.Source('digits', f'{folder}/data').split('train').read().images
figure, axes = plt.subplots(2, 8, figsize=(8, 2.2), layout='constrained')
for ax, image in zip(axes.flat, images):
    ax.imshow(image[..., 0], cmap='gray_r')
    ax.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## Three networks
#
# We train the same network of three convolutions three times: convolutional, locally connected, and
# locally connected with a sleep after every 5 batches. These networks are smaller than those of
# `make demo`, and each is trained only once.

# %%
records = {}
for kind in ('conv', 'lc', 'lc_hebbian'):
    config = configs.apply_kind(configs.default(), kind)
    config.data_dir = f'{folder}/data'
    config.model.stage_sizes, config.model.width = (1,), 8
    config.batch_size = 48  # for 1, 2, 4 or 8 devices
    config.epochs = 14
    config.learning_rate = 1e-2
    config.sleep.every = config.log_every = 5
    config.checkpoint_every = 0
    records[kind] = []
    result = lcn_jax.train_and_evaluate(config, f'{folder}/{kind}', records[kind].append)
    accuracy = f'{result["test_top1"]:.1%}'
    print(f'{kind:<11} {result["parameters"]:>8,} parameters, test accuracy {accuracy}')

# %% [markdown]
# Left: accuracy on digits that the networks have not seen. Right: how alike the weights of the
# neurons are that share in a sleep, measured by the paper's weight signal-to-noise ratio (SNR),
# which is infinite for a convolution. Every sleep raises it by orders of magnitude, and learning
# lowers it again.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout='constrained')
for (kind, of_kind), colour in zip(records.items(), ('tab:blue', 'tab:red', 'tab:green')):
    tested = [(r['epoch'], 100 * r['test_top1']) for r in of_kind if 'test_top1' in r]
    left.plot(*zip(*tested), color=colour, label=kind)
    snrs = [
        (r['epoch'], r[name])
        for r in of_kind
        for name in ('weight_snr_before_sleep', 'weight_snr')
        if r.get(name) is not None
    ]
    if snrs:
        right.plot(*zip(*snrs), color=colour, label=kind)
left.set(xlabel='epoch', ylabel='test accuracy (%)', ylim=(0, 100))
right.set(xlabel='epoch', ylabel='weight SNR', yscale='log')
left.legend()
right.legend()
plt.show()

# %% [markdown]
# ## One sleep
#
# We take the LC network that never slept and put it to sleep by the Hebbian rule. The model itself
# says which of its kernels are local, and where their positions are.

# %%
lc = lcn_jax.load(f'{folder}/lc')
grids = lc.grids
options = {'border': 'include', 'gamma': 1e-5, 'learning_rate': 0.1, 'momentum': 0.0}
rule = lcn_jax.resolve('hebbian', {**options, 'steps': 100, 'patterns_per_step': 128})
awake = lc.variables['params']
slept = jax.jit(lambda params: lcn_jax.share(params, grids, rule, jax.random.key(0)))(awake)
snrs = [similarity.layer_snrs(params, grids, 'include') for params in (awake, slept)]
for name, before in snrs[0].items():
    print(f'{name:<22} weight SNR {before:6.3f} awake, {snrs[1][name]:10.3g} after the sleep')

# %% [markdown]
# First, the kernels of one channel and feature of the first layer, at positions of one pool, that
# is of neurons that see the same input during a sleep. Then, for every position, the deviation of
# its weights from the mean of its pool, with the same positions marked.

# %%
first = grids['stem_conv']['kernel']
before_and_after = [np.asarray(params['stem_conv']['kernel']) for params in (awake, slept)]
positions = np.argwhere(pool_numbers(first) == 0)[::5]

figure, axes = plt.subplots(2, len(positions), figsize=(9, 2.8), layout='constrained')
limit = np.abs(before_and_after[0]).max()
for row, name, kernel in zip(axes, ('before', 'after'), before_and_after):
    row[0].set_ylabel(name)
    for ax, (i, j) in zip(row, positions):
        ax.imshow(kernel[i, j, :, :, 0, 0], cmap='RdBu_r', vmin=-limit, vmax=limit)
        ax.set(xticks=[], yticks=[], title=f'{i}, {j}')
plt.show()

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout='constrained')
for ax, name, kernel in zip(axes, ('before', 'after'), before_and_after):
    deviation = similarity.deviation(jax.numpy.asarray(kernel), first, border='include').mean(-1)
    image = ax.imshow(deviation, vmin=0, vmax=limit / 2)
    ax.plot(*positions.T[::-1], 'o', mfc='none', mec='white', ms=5)
    ax.set(title=f'{name}: {deviation.mean():.2g} on average', xlabel='column', ylabel='row')
figure.colorbar(image, ax=axes, label='deviation')
plt.show()

# %% [markdown]
# ## A convolution is an LC network whose positions agree
#
# If we put the kernels of the convolutional network at every position, we get a locally connected
# network that computes the same. `lcn_jax.to_shared` is the way back: it takes the mean over
# positions.

# %%
conv = lcn_jax.load(f'{folder}/conv')
tiled = {**conv.variables, 'params': lcn_jax.to_local(conv.variables['params'], grids)}
x = np.random.RandomState(0).randn(8, *conv.image_shape).astype(np.float32)
expected = np.asarray(conv.model.apply(conv.variables, x, train=False))
difference = np.abs(np.asarray(lc.model.apply(tiled, x, train=False)) - expected).max()
print(f'logits up to {np.abs(expected).max():.2f}; the largest difference is {difference:.1e}')
