# %% [markdown]
# # Scoring layers against neurons
#
# Which layer of a network predicts recorded neurons best, and how close is it to the best possible?
# `lcn_jax.brain` answers this as Brain-Score does.
#
# **The neurons of this notebook are made up.** Each is a sum of a few units of one layer of the
# network itself, plus noise. So nothing here is about brains, but we know the right answer and can
# see whether it is found. Real neurons go in at one place, marked below.

# %%
import dataclasses
import tempfile
from importlib.metadata import version

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import lcn_jax
from lcn_jax.brain import assembly, features
from lcn_jax.brain.scores import Scorer
from lcn_jax.data import sources
from lcn_jax.training import config as configs

devices = f'{jax.device_count()} × {jax.devices()[0].device_kind}'
print(f'lcn_jax {version("lcn_jax")}, JAX {jax.__version__}, {devices}')
folder = tempfile.mkdtemp()

# %% [markdown]
# ## A network
#
# We use a convolutional network of three blocks because it trains in seconds; the other kinds are
# scored in the same way. The control is the same network with random weights.

# %%
config = configs.apply_kind(configs.default(), 'conv')
config.data_dir = f'{folder}/data'
config.model.stage_sizes, config.model.width = (1, 1, 1), 8
config.batch_size = 48  # for 1, 2, 4 or 8 devices
config.epochs = 6
config.learning_rate = 1e-2
config.checkpoint_every = 0
result = lcn_jax.train_and_evaluate(config, f'{folder}/run')
print(f'test accuracy {result["test_top1"]:.1%}')

trained = lcn_jax.load(f'{folder}/run')
init = jax.jit(trained.model.init, static_argnames='train')
start = init(jax.random.key(0), jnp.zeros((1, *trained.image_shape)), train=False)
untrained = dataclasses.replace(trained, variables=start, step=0)
print('blocks:', features.blocks(trained))

# %% [markdown]
# ## Neurons
#
# 30 neurons see 300 images, 6 times each. A neuron adds up 5 units of the second block of the
# trained network, chosen at random, with random weights. The noise is new in every repetition and
# has the same variance as this signal.

# %%
images = sources.Source('digits', config.data_dir).split('test').read().images[:300]
units = features.extract(trained, images, ['stage2_block1'])['stage2_block1'].reshape(300, -1)
units = units[:, units.std(0) > 0]  # some never vary

random = np.random.default_rng(0)
signal = np.empty((300, 30))
for neuron in signal.T:
    neuron[:] = units[:, random.choice(units.shape[1], 5)] @ random.normal(size=5)
signal /= signal.std(0)
responses = signal[..., None] + random.normal(size=(300, 30, 6))

np.savez(f'{folder}/neurons.npz', responses=responses, region=np.full(30, 'made up'))

# %%
figure, axes = plt.subplots(3, 1, figsize=(9, 3), sharex=True, layout='constrained')
for number, ax in enumerate(axes):
    ax.plot(responses[:60, number], '.', color='0.6', ms=3)
    ax.plot(responses[:60, number].mean(-1), color='tab:blue', lw=1)
    ax.set(yticks=[], ylabel=f'neuron {number}')
axes[-1].set_xlabel('image; dots are repetitions, the line is their mean')
plt.show()

# %% [markdown]
# ## Your own neurons
#
# go in here: an npz file with `responses` (images, neurons, repetitions), NaN where one is missing,
# or a NetCDF file of Brain-Score. With the images in a folder or a zip file, write
#
#     from lcn_jax.brain import stimuli
#
#     neurons = assembly.read('V4.npz')
#     images = stimuli.shown('V4_images.zip', neurons)
#
# and leave everything below as it is. In a copy of the repository,
# `python -m experiments.brain_score` does the same for several trained networks.

# %%
neurons = assembly.read(f'{folder}/neurons.npz')
print('images, neurons, repetitions:', neurons.responses.shape, set(neurons.regions))

# %% [markdown]
# ## Scores
#
# Partial least squares predicts the neurons from the responses of a block. The score is the
# correlation with the responses to images that were held out, as the median over neurons. No
# prediction can be better than the noise allows: the two halves of the repetitions give this
# ceiling. `r²/c` is the explained part of the variance that can be explained at all. `RDM` compares
# which images look alike to the block and to the neurons.
#
# The best block of each network is chosen on one half of the images and reported on the other.

# %%
scorer = Scorer(neurons.responses, neurons.groups)
scores = {}
for name, network in {'trained': trained, 'untrained': untrained}.items():
    activations = features.extract(network, images, features.blocks(network))
    scores[name] = {block: scorer.layer(units) for block, units in activations.items()}
    for block, of_block in scores[name].items():
        score, (low, high) = of_block['score'], of_block['interval']
        print(
            f'{name:<10} {block:<14} {score:.3f} [{low:.3f}, {high:.3f}]',
            f' r²/c {of_block["ceiled_since_2026"]:.3f}  RDM {of_block["rdm"]:.3f}',
        )
    best = max(scores[name], key=lambda block: scores[name][block]['chosen_by'])
    held_out = scorer.scores(scorer.correlations(activations[best], scorer.reported_on))
    print(f'{name:<10} {best} on the other half: {held_out["score"]:.3f}')

# %% [markdown]
# The second block of the trained network wins, as it should: the neurons were made from it. It
# stays below the dashed line because 25 components and 270 images are not enough to find all
# weights of a neuron.

# %%
plt.figure(figsize=(7, 3.6), layout='constrained')
for name, of_blocks in scores.items():
    plt.plot([of_block['score'] for of_block in of_blocks.values()], 'o-', label=name)
plt.axhline(scorer.ceiling**0.5, color='0.3', ls='--', lw=1, label='the best possible')
plt.xticks(range(len(of_blocks)), of_blocks)
plt.ylabel('correlation with held-out responses')
plt.legend()
plt.show()
