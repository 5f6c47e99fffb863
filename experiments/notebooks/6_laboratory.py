# %% [markdown]
# # The laboratory: between convolution and local weights
#
# A convolution has one kernel for all positions, and a locally connected layer has one for each.
# What lies between? This notebook tries two answers from the literature on handwritten digits: a
# *few* kernels, mixed differently at each position, and one kernel *for some time*, after which the
# positions are free.

# %%
import functools
import os
import tempfile
from importlib.metadata import version

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import lcn_jax
from lcn_jax.training import config as configs

devices = f'{jax.device_count()} × {jax.devices()[0].device_kind}'
print(f'lcn_jax {version("lcn_jax")}, JAX {jax.__version__}, {devices}')
folder = tempfile.mkdtemp()
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:  # the runs share compiled programs
    jax.config.update('jax_compilation_cache_dir', f'{folder}/cache')

# %% [markdown]
# All networks have three convolutions with eight channels and learn from the same images. They
# differ only in their kind and in a few fields of the config.


# %%
def records_of(name, kind, **fields):
    """Trains a network and returns its records."""
    config = configs.apply_kind(configs.default(), kind)
    config.data_dir = f'{folder}/data'
    config.model.stage_sizes, config.model.width = (1,), 8
    config.batch_size = 48  # for 1, 2, 4 or 8 devices
    config.epochs = 10
    config.learning_rate = 1e-2
    config.checkpoint_every = 0
    config.update_from_flattened_dict(fields)
    measured = []
    result = lcn_jax.train_and_evaluate(config, f'{folder}/{name}', measured.append)
    accuracy = f'{result["test_top1"]:.1%}'
    print(f'{name:<24} {result["parameters"]:>8,} parameters, test accuracy {accuracy}')
    return measured


# %% [markdown]
# ## A few kernels
#
# Elsayed, Ramachandran, Shlens and Kornblith ([ICML 2020](https://arxiv.org/abs/2002.02959)) give a
# layer $K$ kernels $W_k$. The kernel of the neurons at row $i$ and column $j$ is the mixture
#
# $$\sum_k c_{ijk} W_k, \qquad c_{ij} = \mathrm{softmax}(r_i + s_j),$$
#
# where the weights $r_i$ of the row and $s_j$ of the column are learned, too. With a single kernel,
# the layer is a convolution. The matrix of the kernels of all positions has rank $K$ at most.

# %%
records = {'never': records_of('convolution', 'conv')}
rank_two = {'connectivity': 'low_rank', 'model.rank': 2}
records_of('two kernels', 'lc', **rank_two)
records['from the start'] = records_of('a kernel everywhere', 'lc')

# %% [markdown]
# This is where the first of the two kernels is used: its part of the mixture, which was one half
# everywhere at the start.

# %%
params = lcn_jax.load(f'{folder}/two kernels').variables['params']
layers = {name: layer for name, layer in params.items() if 'rows' in layer}
figure, axes = plt.subplots(1, len(layers), figsize=(9, 3.2), layout='constrained', squeeze=False)
for ax, (name, layer) in zip(axes[0], layers.items()):
    mixing = jax.nn.softmax(layer['rows'][:, None] + layer['columns'])
    image = ax.imshow(np.asarray(mixing[..., 0]), vmin=0, vmax=1, cmap='RdBu_r')
    ax.set(title=name, xticks=[], yticks=[])
figure.colorbar(image, ax=axes, label='part of the first kernel')
plt.show()

# %% [markdown]
# ## One kernel for some time
#
# d'Ascoli, Sagun, Bruna and Biroli ([NeurIPS 2019](https://arxiv.org/abs/1906.06766)) train a
# convolution and set its weights free at some moment: they *relax* it. Here the network is locally
# connected from the start and sleeps after every step. All positions of a layer then take their
# mean weights, and with these they compute a convolution. `config.sleep.until` is the last epoch
# with a sleep.

# %%
for until in (2, 6):
    fields = {'sleep.every': 1, 'sleep.until': until, 'log_every': 10}
    name = f'relaxed after epoch {until}'
    records[f'after epoch {until}'] = records_of(name, 'lc_mean_joined', **fields)

# %% [markdown]
# Left: test accuracy. The convolution is never relaxed, and the locally connected network above was
# free from the start. Right: how far the weights are from the mean over the positions, relative to
# their size.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout='constrained')
for label, of_run in records.items():
    tested = [(r['epoch'], 100 * r['test_top1']) for r in of_run if 'test_top1' in r]
    (line,) = left.plot(*zip(*tested), label=label)
    deviations = [(r['epoch'], r['weight_deviation']) for r in of_run if 'weight_deviation' in r]
    if deviations:
        right.plot(*zip(*deviations), color=line.get_color())
left.set(xlabel='epoch', ylabel='test accuracy (%)', ylim=(0, 100))
right.set(xlabel='epoch', ylabel='weight deviation')
left.legend(title='relaxed')
plt.show()

# %% [markdown]
# ## How many kernels are in a locally connected network?
#
# The sharing rule `low_rank` leaves a layer the mean kernel of its positions and the best
# approximation of rank $K - 1$ of the deviations from it. With one kernel it is the rule `mean`. We
# put networks whose positions are free to one such sleep.

# %%
names = {'from the start': 'a kernel everywhere', 'after epoch 6': 'relaxed after epoch 6'}
networks = {label: lcn_jax.load(f'{folder}/{name}') for label, name in names.items()}
relaxed = networks['after epoch 6']
test = relaxed.source.split('test').read()
images = relaxed.normalise(test.images)


@functools.partial(jax.jit, static_argnums=1)
def accuracy_after_sleep(variables, rank):
    """In percent, of a network with this many kernels in each layer."""
    rule = lcn_jax.resolve('low_rank', {'border': 'include', 'rank': rank})
    grids = relaxed.grids  # all positions of a layer are one pool
    params = lcn_jax.share(variables['params'], grids, rule, jax.random.key(0))
    variables = {**variables, 'params': params}
    logits = jnp.asarray(relaxed.model.apply(variables, images, train=False))
    return 100 * (logits.argmax(-1) == test.labels).mean()


ranks = (1, 2, 4, 16, 64, 256)
plt.figure(figsize=(6, 3.4), layout='constrained')
for label, network in networks.items():
    accuracies = [accuracy_after_sleep(network.variables, rank) for rank in ranks]
    plt.plot(ranks, accuracies, 'o-', label=label)
plt.xscale('log', base=2)
plt.xlabel('kernels that the sleep leaves')
plt.ylabel('test accuracy (%)')
plt.legend(title='relaxed')
plt.show()
