# %% [markdown]
# # Training, on whatever devices there are
#
# `train_and_evaluate(config, workdir)` trains a network from a config. It runs on all devices that
# JAX finds, with `pmap`: on a TPU or several GPUs choose the runtime and run the same cells. The
# networks here are tiny, so that this takes seconds on a CPU; their accuracies are not results.

# %%
import importlib.metadata
import json
import math
import os
import signal
import tempfile

import jax
import matplotlib.pyplot as plt

from lcn_jax.errors import Stopped
from lcn_jax.training import config as configs
from lcn_jax.training.train import train_and_evaluate

print(
    f'lcn_jax {importlib.metadata.version("lcn_jax")}, JAX {jax.__version__},',
    f'{jax.device_count()} × {jax.devices()[0].device_kind}',
)
folder = tempfile.mkdtemp()
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:  # for programs that the runs share
    jax.config.update('jax_compilation_cache_dir', f'{folder}/cache')

# %% [markdown]
# ## A config
#
# The kind of network is a point on three axes: connectivity (shared or local weights), translations
# (how many moved copies of an image a batch holds), and sleep (by which rule, how often).
# `lcn_jax/training/config.py` has every field with a comment. The default is ResNet-20 on digits;
# the files in `experiments/configs` change it to the paper's runs.

# %%
print(configs.apply_kind(configs.default(), 'lc_hebbian'))

# %% [markdown]
# ## Four kinds
#
# Digits need no download. The network has three layers here, and learns for few epochs.

# %%
records = {}
for kind in ('conv', 'lc', 'lc_translations', 'lc_hebbian'):
    config = configs.apply_kind(configs.default(), kind)
    config.data_dir = f'{folder}/data'
    config.model.stage_sizes, config.model.width = (1,), 8
    config.batch_size = math.lcm(48, jax.device_count())  # each device gets the same number
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
# `report`, the third argument, is given every record while the network trains. The same records are
# in `WORKDIR/metrics.jsonl`, one a line. Translations make more steps of an epoch.

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
# ## Stopping, and going on
#
# Ctrl-C, or a notebook's stop button, makes training save a checkpoint and raise `Stopped`. The
# same call then goes on from there, and what it computes is what it would have computed without the
# stop, bit for bit. Here the program presses the button itself.


# %%
def press_stop(record):
    if record['step'] == 30:
        signal.raise_signal(signal.SIGINT)


# %%
workdir = f'{folder}/stopped'  # config is still that of lc_hebbian
try:
    train_and_evaluate(config, workdir, press_stop)
except Stopped as message:
    print(message)
again = train_and_evaluate(config, workdir)
print('from the checkpoint:', again['test_loss'], ' in one go:', result['test_loss'])

# %% [markdown]
# The records of both parts are in one file, each step once.

# %%
with open(f'{workdir}/metrics.jsonl') as file:
    print('records of steps', [json.loads(line)['step'] for line in file])
assert again['test_loss'] == result['test_loss']
