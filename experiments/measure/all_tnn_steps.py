"""Training steps of the All-TNN and its layers, beside those of Keras 2 in a process of its own."""

import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import subprocess
from collections.abc import Callable, Iterator, Sequence
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
LARGEST = 1e9  # bytes of kernels; a step needs several times as much
LIST_ENTRY = 128  # bytes of a tuple of two numbers of NumPy, in a list
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
    """ask(function, **arguments), which calls one of `keras_process.py` in a process of `python`.

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
        assert process.stdin and process.stdout  # they are pipes
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


def kernel_bytes(shape: LayerShape, implementation: int) -> int:
    """The bytes of what a layer of Keras keeps as its kernel, without gradients and moments.

    1: an array; 2: an array with a number for every input and output; 3: a list with a tuple of two
    numbers for every weight.
    """
    outputs = math.prod(shape.grid.output_size) * shape.features
    if implementation == 2:
        return 4 * math.prod(shape.grid.input_size) * shape.channels * outputs
    weights = outputs * math.prod(shape.grid.kernel_size) * shape.channels
    return weights * (4 if implementation == 1 else LIST_ENTRY)


def kernel_sizes(shapes: Sequence[LayerShape]) -> dict[str, int]:
    """The sum of `kernel_bytes`, by the name of the implementation."""
    return {str(n): sum(kernel_bytes(shape, n) for shape in shapes) for n in IMPLEMENTATIONS}


def measure_layer(shape: LayerShape, ask: Ask, settings: Settings) -> dict[str, Any]:
    """A layer forward and backward, without biases."""
    grid = shape.grid
    weights = (*grid.kernel_size, shape.channels, shape.features)
    candidates = layer_candidates(shape, settings.batch_size, settings.dtype)
    layer, operands = candidates[default_implementation(weights, settings.dtype)]
    program = Compiled.of(jax.jit(with_gradients(layer, not shape.sees_images)), operands)
    ours = functools.partial(program.call, *operands)
    theirs = functools.partial(
        ask,
        'layer',
        batch_size=settings.batch_size,
        input_shape=(*grid.input_size, shape.channels),
        output_shape=(*grid.output_size, shape.features),
        kernel_size=grid.kernel_size,
        stride=grid.stride,
        first=shape.sees_images,
    )
    return measure_beside(
        f'layer {shape}', kernel_sizes([shape]), ours, theirs, ask, settings.layer_seconds, settings
    )


def our_step(experiment: Experiment, settings: Settings) -> Callable:
    """A training step on one batch."""
    update = functools.partial(wake.update, learner=experiment.learner(TOTAL_STEPS))

    def step(state, images, labels, noise_key):
        return update(state, images, labels, noise_key=noise_key)

    program = parallel.per_device(step, (0, 0, 0, None), donate=[0])
    batch = *spread_batch(experiment, settings.batch_size), jax.random.key(1)
    state = start(experiment)
    return advancing(Compiled.of(program, (state, *batch)), state, *batch)


def experiment_of(config: ml_collections.ConfigDict, weight: float) -> Experiment:
    """The published network's, with its classes and this weight of the penalty, 0 for none."""
    config = config.copy_and_resolve_references()
    config.penalty.weight = weight
    if not weight:
        config.penalty.name = 'none'
    experiment = Experiment.create(config)
    model = experiment.network.model.clone(num_classes=CLASSES)
    network = dataclasses.replace(experiment.network, model=model)
    return dataclasses.replace(experiment, network=network)


def measure_step(
    experiment: Experiment, shapes: Sequence[LayerShape], ask: Ask, settings: Settings
) -> dict[str, Any]:
    """A training step, with the penalty of the config; `shapes` are its local layers'."""
    config, model = experiment.config, cast(AllTNN, experiment.network.model)
    weight = config.penalty.weight
    pooled = [number in model.pooled for number, _ in enumerate(model.features, 1)]
    theirs = functools.partial(
        ask,
        'step',
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
    sizes = kernel_sizes(shapes)
    if weight:  # the penalty reads the kernels of implementation 1
        sizes = {'1': sizes['1']}
    ours = our_step(experiment, settings)
    return measure_beside(
        f'training step, α = {weight:g}', sizes, ours, theirs, ask, settings.step_seconds, settings
    )


def measure_beside(
    what: str, sizes: dict[str, int], ours: Callable, theirs: Callable, ask: Ask, seconds: float,
    settings: Settings,
) -> dict[str, Any]:  # fmt: skip
    """Median seconds of `ours()` and of what `theirs` makes, for the implementations of `sizes`.

    An implementation whose kernels are too large is left out.
    """
    say(f'All-TNN, {what}')
    calls = {OURS: ours}
    for name, size in sizes.items():
        if size <= LARGEST:
            theirs(name=name, implementation=int(name))
            calls[name] = functools.partial(ask, 'call', name=name)
    times = medians(calls, seconds, settings)
    ask('forget')
    return {'what': what, 'seconds': times, 'kernel_bytes': sizes}


def measure(python: str, config: ml_collections.ConfigDict, settings: Settings) -> dict[str, Any]:
    """Steps without and with a penalty, and layers: what goes into the JSON file."""
    shapes = distinct_layers(config)
    with keras(python) as ask:
        versions = ask('versions')
        steps = [
            measure_step(experiment_of(config, weight), shapes, ask, settings)
            for weight in (0.0, WEIGHT)
        ]
        layers = [measure_layer(shape, ask, settings) for shape in shapes]
        most_bytes = ask('forget')
    return {
        'keras': versions | {'most_bytes': most_bytes},
        'batch_size': settings.batch_size,
        'records': [*steps, *layers],
    }
