"""Times, memory and floors of single layers."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

import lcn_jax
from experiments.measure import timing
from experiments.measure.timing import KNOWN_NETWORKS, Compiled, Settings, medians, say
from experiments.reports.benchmark import DIRECTIONS, OTHERS
from lcn_jax.layer.backends import bilinear, convolution
from lcn_jax.layer.functional import conv_shared
from lcn_jax.layer.grid import Grid
from lcn_jax.training import cost
from lcn_jax.training.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """The shape of a layer, without the batch."""

    grid: Grid
    channels: int
    features: int
    sees_images: bool = False  # so a step computes no gradient of its input

    def __str__(self):
        grid = self.grid
        size, kernel = ('×'.join(map(str, n)) for n in (grid.input_size, grid.kernel_size))
        strided = f' /{grid.stride[0]}' if grid.stride[0] > 1 else ''
        dilation = grid.kernel_dilation[0]
        dilated = f' dilation {dilation}' if dilation > 1 else ''
        return f'{size} {self.channels}→{self.features} {kernel}{strided}{dilated}'


# Layers of other fields, each with its batch size: a genome twice, a volume, a dilated layer.
OTHER_LAYERS = [
    (LayerShape(Grid.create((100_000,), (20,), 20, 'VALID'), 4, 8), 16),
    (LayerShape(Grid.create((100_000,), (20,), 5, 'VALID'), 4, 8), 16),
    (LayerShape(Grid.create((32, 32, 32), 3), 8, 8), 8),
    (LayerShape(Grid.create((32, 32), 3, kernel_dilation=2), 16, 16), 128),
]


def distinct_layers(config: ml_collections.ConfigDict) -> list[LayerShape]:
    """The locally connected layers of a network that differ, in the order of computation."""
    experiment = Experiment.create(config)
    layers = cost.layers(experiment.network.model, experiment.network.image_shape)
    shapes = [
        LayerShape(layer.grid, *layer.kernel[-2:], sees_images=layer is layers[0])
        for layer in layers
        if layer.grid
    ]
    return list(dict.fromkeys(shapes))


def with_gradients(layer: Callable, of_input: bool = True) -> Callable:
    """(x, kernel, dy) -> y, dx, dkernel; without dx unless it is the gradient `of_input`, too."""

    def compute(x, kernel, dy):
        if of_input:
            y, pullback = jax.vjp(layer, x, kernel)
        else:
            y, pullback = jax.vjp(functools.partial(layer, x), kernel)
        return y, *pullback(dy)

    return compute


def layer_candidates(
    shape: LayerShape, batch_size: int, dtype: str
) -> dict[str, tuple[Callable, tuple[jax.Array, ...]]]:
    """(x, kernel) -> y, with x, kernel and dy to call it and its derivative with."""
    grid = shape.grid
    kernel_shape = (*grid.kernel_size, shape.channels, shape.features)

    def random(seed, *shape):
        return jax.random.normal(jax.random.key(seed), shape, dtype)

    x_HWNC = random(0, *grid.input_size, batch_size, shape.channels)
    dy_HWNC = random(1, *grid.output_size, batch_size, shape.features)
    kernels = random(2, *grid.output_size, *kernel_shape)
    options = dict(
        stride=grid.stride,
        padding=grid.padding,
        kernel_dilation=grid.kernel_dilation,
        layout='HWNC',
    )
    kernel = random(3, *kernel_shape)
    convolutions = {
        'xla_conv': (
            functools.partial(convolution.forward, grid=grid, groups=1, layout='NHWC'),
            (jnp.moveaxis(x_HWNC, -2, 0), kernel, jnp.moveaxis(dy_HWNC, -2, 0)),
        )
    }
    if bilinear.has_native(jnp.dtype(dtype)):  # else it is XLA's
        conv = functools.partial(conv_shared, **options)
        convolutions = {'conv': (conv, (x_HWNC, kernel, dy_HWNC))} | convolutions
    return convolutions | {
        name: (
            functools.partial(lcn_jax.conv_local, implementation=name, **options),
            (x_HWNC, kernels, dy_HWNC),
        )
        for name in different_implementations(dtype)
    }


def different_implementations(dtype: str) -> tuple[str, ...]:
    """Those that are not the same program here: 'patches' stands in for the others of CPUs."""
    if jax.default_backend() == 'cpu':
        return bilinear.implementations(dtype)
    return 'patches', 'lax'


def floor(flops: int, moved: int, dtype: str, rates: Mapping[str, float]) -> dict[str, float | str]:
    """The least time for this many FLOPs and bytes, and which of them it comes from."""
    seconds = {'FLOPs': flops / rates[f'{dtype}_flops'], 'bytes': moved / rates['copy_bytes']}
    bound_by = max(seconds, key=lambda bound: seconds[bound])
    return {'seconds': seconds[bound_by], 'bound_by': bound_by}


def measure_layer(
    shape: LayerShape, batch_size: int, rates: Mapping[str, float], settings: Settings
) -> dict[str, Any]:
    """Times, compiled memory and the locally connected layer's floor, by direction.

    'default' is the implementation that `conv_local` chooses for the layer.
    """
    candidates = layer_candidates(shape, batch_size, settings.dtype)
    programs = {}
    for name, (layer, operands) in candidates.items():
        programs['forward', name] = jax.jit(layer), operands[:2]
        both = with_gradients(layer, not shape.sees_images)
        programs['forward_backward', name] = jax.jit(both), operands
    if settings.in_loop > 1:
        programs = {
            name: (jax.jit(timing.looped(program, settings.in_loop)), operands)
            for name, (program, operands) in programs.items()
        }
    compiled = Compiled.all_of(programs)
    calls = {name: functools.partial(compiled[name].call, *programs[name][1]) for name in programs}
    seconds = medians(calls, settings.layer_seconds, settings)
    seconds = {name: of_call / settings.in_loop for name, of_call in seconds.items()}

    weights = (*shape.grid.kernel_size, shape.channels, shape.features)
    default = bilinear.default_implementation(weights, settings.dtype)
    x, kernels, dy = candidates[default][1]
    flops, moved = 2 * batch_size * kernels.size, x.nbytes + kernels.nbytes + dy.nbytes
    floors = {
        'forward': floor(flops, moved, settings.dtype, rates),
        # y, dx and the kernels' gradient from x, kernels and dy.
        'forward_backward': floor(
            (2 if shape.sees_images else 3) * flops,
            2 * moved - (x.nbytes if shape.sees_images else 0),
            settings.dtype,
            rates,
        ),
    }
    return {
        'layer': str(shape),
        'kernel_size': shape.grid.kernel_size,
        'batch_size': batch_size,
        'default': default,
    } | {
        direction: {
            'seconds': {name: seconds[direction, name] for name in candidates},
            'temp_bytes': {name: compiled[direction, name].temp_bytes for name in candidates},
            'floor': floors[direction],
        }
        for direction in DIRECTIONS
    }


def measure_layers(rates: Mapping[str, float], settings: Settings) -> dict[str, list[dict]]:
    """`measure_layer` of the layers of each network, and of those of other fields."""
    measured = {}
    for network in settings.networks:
        get_config, smaller = KNOWN_NETWORKS[network]
        shapes = distinct_layers(get_config('lc'))[: settings.most_layers]
        measured[network] = []
        for shape in shapes:
            say(f'{network}, layer {shape}')
            batch_size = max(1, settings.batch_size // smaller)
            measured[network].append(measure_layer(shape, batch_size, rates, settings))
    if settings.other_layers:
        measured[OTHERS] = []
        for shape, batch_size in OTHER_LAYERS:
            say(f'layer {shape}')
            measured[OTHERS].append(measure_layer(shape, batch_size, rates, settings))
    return measured
