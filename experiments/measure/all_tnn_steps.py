"""Training steps of the All-TNN and its layers, beside those of Keras 2 in a process of its own."""

import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import ml_collections

from experiments.configs import all_tnn
from experiments.measure.layers import (
    LayerShape,
    distinct_layers,
    layer_candidates,
    with_gradients,
)
from experiments.measure.steps import TOTAL_STEPS, advancing, spread_batch, start
from experiments.measure.timing import Compiled, Settings, medians, say
from experiments.reports.all_tnn_speed import IMPLEMENTATIONS, OURS
from lcn_jax.errors import UsageError
from lcn_jax.layer.backends.bilinear import default_implementation
from lcn_jax.networks.all_tnn import AllTNN
from lcn_jax.training import parallel, wake
from lcn_jax.training.experiment import Experiment

CLASSES = 565
WEIGHT = 10.0  # of the penalty
LARGEST = 1e9  # bytes of a dense kernel; a step of its layer takes several times as much
PROGRAM = pathlib.Path(__file__).with_name('keras_process.py')

Ask = Callable[..., Any]


def published() -> ml_collections.ConfigDict:
    return all_tnn.get_config('lc')


def tiny() -> ml_collections.ConfigDict:
    config = published()
    config.image_size = 16
    config.model.features, config.model.kernel_sizes = (4, 9), (3, 2)
    config.model.strides, config.model.pooled = (2, 1), (1,)
    return config


@contextlib.contextmanager
def keras(python: str) -> Iterator[Ask]:
    """ask(function, **arguments), which calls a function of `keras_process.py`; `python` has Keras 2.

    Raises:
      UsageError: the process cannot start, or it has ended.
    """
    # TensorFlow ends if it finds flags of another XLA.
    environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen([python, PROGRAM], 0, stdin=pipe, stdout=pipe, env=environment)
    except OSError as e:
        raise UsageError(f'--keras={python} cannot be run: {e.strerror}.') from e

    def ask(function, /, **arguments):
        answer = b''
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps([function, arguments]).encode() + b'\n')
            answer = process.stdout.readline()
        if not answer:
            raise UsageError(
                f'--keras={python} ended at {function!r}: it must be a Python with Keras 2 (pip '
                'install tensorflow-cpu==2.15.1), and there must be 20 GiB of memory.'
            )
        return json.loads(answer)

    with process:
        try:
            yield ask
        finally:
            process.kill()


def dense_bytes(shape: LayerShape) -> int:
    """Of the kernel of Keras's implementation 2: from every input to every output."""
    inputs = math.prod(shape.grid.input_size) * shape.channels
    return 4 * inputs * math.prod(shape.grid.output_size) * shape.features


def measure_layer(shape: LayerShape, ask: Ask, settings: Settings) -> dict[str, Any]:
    """A layer forward and backward, without biases."""
    say(f'All-TNN, layer {shape}')
    grid = shape.grid
    weights = (*grid.kernel_size, shape.channels, shape.features)
    layer, operands = layer_candidates(shape, settings.batch_size, settings.dtype)[
        default_implementation(weights, settings.dtype)
    ]
    program = jax.jit(with_gradients(layer, not shape.sees_images))
    calls = {OURS: functools.partial(Compiled.of(program, operands).call, *operands)}
    not_run = {}
    for implementation in IMPLEMENTATIONS:
        name = str(implementation)
        if implementation == 2 and dense_bytes(shape) > LARGEST:
            not_run[name] = f'{dense_bytes(shape) / 1e9:,.1f} GB'
            continue
        ask(
            'layer',
            name=name,
            implementation=implementation,
            batch_size=settings.batch_size,
            input_shape=(*grid.input_size, shape.channels),
            output_shape=(*grid.output_size, shape.features),
            kernel_size=grid.kernel_size,
            stride=grid.stride,
            first=shape.sees_images,
        )
        calls[name] = functools.partial(ask, 'call', name=name)
    seconds = medians(calls, settings.layer_seconds, settings)
    ask('forget')
    return {'what': f'layer {shape}', 'seconds': seconds, 'not_run': not_run}


def our_step(experiment: Experiment, settings: Settings) -> Callable:
    """A training step on one batch, with a penalty if the config has one."""
    update = functools.partial(wake.update, learner=experiment.learner(TOTAL_STEPS))

    def step(state, images, labels, noise_key):
        return update(state, images, labels, noise_key=noise_key)

    program = parallel.per_device(step, (0, 0, 0, None), donate=[0])
    batch = *spread_batch(experiment, settings.batch_size), jax.random.key(1)
    state = start(experiment)
    return advancing(Compiled.of(program, (state, *batch)), state, *batch)


def measure_step(
    config: ml_collections.ConfigDict, weight: float, ask: Ask, settings: Settings
) -> dict[str, Any]:
    """A training step with this weight of the penalty, of implementation 1 of Keras.

    The penalty reads the kernels of that implementation.
    """
    say(f'All-TNN, training step, α = {weight:g}')
    config = config.copy_and_resolve_references()
    config.penalty.weight = weight
    if not weight:
        config.penalty.name = 'none'
    experiment = Experiment.create(config)
    network = dataclasses.replace(
        experiment.network, model=experiment.network.model.clone(num_classes=CLASSES)
    )
    experiment = dataclasses.replace(experiment, network=network)
    model = cast(AllTNN, network.model)
    pooled = [number in model.pooled for number, _ in enumerate(model.features, 1)]
    parameters = ask(
        'step',
        name='1',
        implementation=1,
        weight=weight,
        batch_size=settings.batch_size,
        size=config.image_size,
        classes=CLASSES,
        shape=list(zip(model.features, model.kernel_sizes, model.strides, pooled)),
        dropout=model.dropout,
        l2=config.weight_decay / 2,
        clip=config.clip,
        rate=config.learning_rate,
    )
    calls = {
        OURS: our_step(experiment, settings),
        '1': functools.partial(ask, 'call', name='1'),
    }
    seconds = medians(calls, settings.step_seconds, settings)
    ask('forget')
    return {
        'what': f'training step, α = {weight:g}' if weight else 'training step, no penalty',
        'parameters': {OURS: network.parameters, '1': parameters},
        'seconds': seconds,
        'not_run': {},
    }


def measure(python: str, config: ml_collections.ConfigDict, settings: Settings) -> dict[str, Any]:
    """Steps without and with a penalty, and layers: what goes into the JSON file."""
    with keras(python) as ask:
        versions = ask('versions')
        shapes = distinct_layers(config)
        layers = [measure_layer(shape, ask, settings) for shape in shapes]
        off, on = (measure_step(config, weight, ask, settings) for weight in (0.0, WEIGHT))
        most_bytes = ask('forget')
    dense = sum(map(dense_bytes, shapes)) / 1e9
    sparse = sum(layer['seconds']['3'] for layer in layers)
    off['not_run'] = {'2': f'{dense:,.1f} GB', '3': f'over {1e3 * sparse:,.0f} ms'}
    return {
        'keras': versions | {'most_bytes': most_bytes},
        'batch_size': settings.batch_size,
        'records': [off, on, *layers],
    }
