# %% [markdown]
# # Training, on whatever devices there are
#
# `lcn_jax.train_and_evaluate(config, workdir)` trains a network from a config. It runs on all
# devices that JAX finds, with `pmap`: for a TPU or several GPUs, choose that runtime and run the
# same cells. The networks here are tiny, so that training takes seconds on a CPU; their accuracies
# are not results.

# %%
import json
import math
import os
import signal
import tempfile
from importlib.metadata import version

import jax
import matplotlib.pyplot as plt

from lcn_jax import train_and_evaluate
from lcn_jax.errors import Stopped
from lcn_jax.training import config as configs

devices = f'{jax.device_count()} × {jax.devices()[0].device_kind}'
print(f'lcn_jax {version("lcn_jax")}, JAX {jax.__version__}, {devices}')
folder = tempfile.mkdtemp()
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:  # the runs share compiled programs
    jax.config.update('jax_compilation_cache_dir', f'{folder}/cache')

# %% [markdown]
# ## A config
#
# Kinds of network differ in three things: connectivity (shared or local weights), translations (how
# many shifted copies of an image a batch contains), and sleep (by which rule, and how often).
# `lcn_jax/training/config.py` has every field with a comment. The default is a ResNet-20 on digits;
# the files in `experiments/configs` change it to the runs of the paper.

# %%
print(configs.apply_kind(configs.default(), 'lc_hebbian'))

# %% [markdown]
# ## Four kinds
#
# The digits need no download. The network has only three convolutions here and trains for a few
# epochs.

# %%
records = {}
for kind in ('conv', 'lc', 'lc_translations', 'lc_hebbian'):
    config = configs.apply_kind(configs.default(), kind)
    config.data_dir = f'{folder}/data'
    config.model.stage_sizes, config.model.width = (1,), 8
    config.batch_size = math.lcm(48, jax.device_count())  # the same number for each device
    config.epochs = 3
    config.learning_rate = 1e-2
    config.log_every = 10
    if kind == 'lc_translations':
        config.translations.padding, config.translations.repetitions = 2, 2
    config.checkpoint_every = 0
    records[kind] = []
    result = train_and_evaluate(config, f'{folder}/{kind}', records[kind].append)
    accuracy = f'{result["test_top1"]:.1%}'
    print(f'{kind:<16} {result["step"]} steps, test accuracy {accuracy}')

# %% [markdown]
# The third argument, `report`, is called with every record while the network trains. The same
# records are in `WORKDIR/metrics.jsonl`, one on each line. With translations, an epoch has more
# steps.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout='constrained')
for kind, of_kind in records.items():
    steps = [record['step'] for record in of_kind]
    left.plot(steps, [record['train_loss'] for record in of_kind], label=kind)
    tested = [record for record in of_kind if 'test_top1' in record]
    right.plot(
        [record['step'] for record in tested],
        [100 * record['test_top1'] for record in tested],
        'o-',
        label=kind,
    )
left.set(xlabel='step', ylabel='training loss (nats)')
right.set(xlabel='step', ylabel='test accuracy (%)', ylim=(0, 100))
left.legend()
plt.show()

# %% [markdown]
# ## Stopping and continuing
#
# Ctrl-C, or the stop button of a notebook, makes training save a checkpoint and raise `Stopped`.
# The same call then continues from there, and computes, bit for bit, what it would have computed
# without the stop. Here the program presses the button itself.


# %%
def press_stop(record):
    if record['step'] == 30:
        signal.raise_signal(signal.SIGINT)


# %%
workdir = f'{folder}/stopped'  # with the config of lc_hebbian, the last one above
try:
    train_and_evaluate(config, workdir, press_stop)
except Stopped as message:
    print(message)
again = train_and_evaluate(config, workdir)
print('from the checkpoint:', again['test_loss'], ' in one go:', result['test_loss'])

# %% [markdown]
# The records of both parts are in one file, with every step once.

# %%
with open(f'{workdir}/metrics.jsonl') as file:
    print('records of steps', [json.loads(line)['step'] for line in file])
assert again['test_loss'] == result['test_loss']
