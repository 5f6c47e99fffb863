"""PyTorch's networks compute what ours do; where PyTorch is not installed, nothing is tested."""

import functools

import jax
import numpy as np
import pytest
import tiny_config

torch = pytest.importorskip('torch')

from lcn_jax.interop import to_unfold  # noqa: E402

from experiments.measure import torch_steps  # noqa: E402
from lcn_jax.training.experiment import Experiment  # noqa: E402

IMAGES = 5
torch.set_num_threads(1)  # more would take longer


def tiny_experiment(kind, dtype='float32'):
    config = tiny_config.get_config(kind)
    # PyTorch 2.13 writes beyond its buffers with 4 channels: oneDNN, AVX2, one thread.
    config.model.stage_sizes, config.model.width = (1, 1), 8
    config.model.dtype = dtype
    return Experiment.create(config)


def batch(experiment):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((IMAGES, *experiment.network.image_shape), np.float32)
    return images, rng.integers(experiment.network.model.num_classes, size=IMAGES, dtype=np.int32)


def load(network, params):
    """Puts the parameters of our network into PyTorch's, all of whose parameters they must be."""
    weights = {}
    for name, values in params.items():
        for field, value in values.items():
            value = np.asarray(value)
            if value.ndim == 6:
                value = to_unfold(value)
            elif field == 'kernel':
                value = np.moveaxis(value, (-1, -2), (0, 1))
            field = 'bias' if field == 'bias' else 'weight'
            weights[f'parts.{name}.{field}'] = torch.from_numpy(value.copy())
    expected, unexpected = network.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all('running' in name or 'num_batches' in name for name in expected)


@pytest.mark.parametrize('kind', ['conv', 'lc'])
def test_the_network_is_ours(kind):
    experiment = tiny_experiment(kind)
    images, _ = batch(experiment)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
        {'params': experiment.shapes.params, 'batch_stats': experiment.shapes.batch_stats},
    )
    apply = functools.partial(experiment.network.model.apply, train=True, mutable=['batch_stats'])
    expected, _ = jax.jit(apply)(variables, images)
    network = torch_steps.ResNet(experiment.network.model, *images.shape[2:])
    load(network, variables['params'])
    logits = network(torch.from_numpy(images).permute(0, 3, 1, 2)).detach().numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_steps_learn_the_batch(dtype):
    experiments = [tiny_experiment(kind, dtype) for kind in ('conv', 'lc')]
    steps = torch_steps.steps(*experiments, *batch(experiments[0]))
    assert set(steps) == set(torch_steps.NAMES)
    for call in steps.values():
        losses = [call() for _ in range(10)]
        assert losses[-1] < 0.7 * losses[0]
