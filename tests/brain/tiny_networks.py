"""Workdirs of networks that were not trained, simulated neurons, and calls of the binaries."""

import jax
import numpy as np
import tiny_runs

from lcn_jax.trained.load import Trained
from lcn_jax.training import checkpoint
from lcn_jax.training import config as configs
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.network import Network

rng = np.random.default_rng

LAYERS = ('stem', 'stage1_block1', 'stage2_block1', 'pooled', 'logits')
SHORTCUT = 'stage2_block1_shortcut'


def make_config(kind):
    config = configs.default()
    config.dataset, config.image_size = 'cifar10', 8
    config.mean, config.std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    config.model.stage_sizes, config.model.width = (1, 1), 4
    config.batch_size = 8
    return configs.apply_kind(config, kind)


def make_state(config, seed):
    """Random parameters at which layers stay active, made faster than by an initialisation."""
    shapes = Experiment.create(config).shapes
    random = rng(seed)

    def values(path, leaf):
        if path[-1].key == 'kernel':
            spread = np.sqrt(2 / np.prod(leaf.shape[-4:-1]))
            return random.normal(0, spread, leaf.shape).astype(leaf.dtype)
        return random.uniform(0.5, 1, leaf.shape).astype(leaf.dtype)

    return shapes.replace(
        step=np.int32(3),
        params=jax.tree_util.tree_map_with_path(values, shapes.params),
        batch_stats=jax.tree_util.tree_map_with_path(values, shapes.batch_stats),
        opt_state=jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes.opt_state),
    )


def make_run(workdir, config, seed=0):
    """A workdir with a checkpoint of step 3."""
    snapshot = checkpoint.Snapshot.of(make_state(config, seed))
    workdir.mkdir()
    with (
        checkpoint.claim(str(workdir), config),
        checkpoint.Checkpoints(str(workdir)) as checkpoints,
    ):
        checkpoints.save(3, snapshot, checkpoint.NOT_EVALUATED)
    return workdir


def network_of(model, variables, image_shape):
    """A model as if a run had trained it, on pixels with mean 0.5 and std 1."""
    config = configs.default()
    config.mean, config.std = (0.5,) * image_shape[2], (1.0,) * image_shape[2]
    return Trained(config, Network(model, image_shape), variables)


def noisy(signal, reliability, repetitions, seed):
    """(S, N) -> (S, N, R): means over the repetitions have this reliability."""
    noise = np.sqrt(repetitions * signal.var(0) * (1 / reliability - 1))[:, None]
    return signal[..., None] + noise * rng(seed).normal(size=(*signal.shape, repetitions))


def call(module, *flags, status=0):
    """Stdout and stderr of a binary, which must end with this status."""
    done = tiny_runs.call(module, *flags)
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr
