"""How fast layers and whole training steps are, next to each other and to what the machine can do.

    python -m experiments.benchmark --out=experiments/results/benchmark/cpu.json

Compares convolutions, `lax.conv_general_dilated_local` and the implementations of `conv_local` on
the layers of the paper's networks; training steps of ResNet-20 with convolutions, with locally
connected layers and with `flax.linen.ConvLocal`; the same steps fed from a dataset on the device;
and sleeps. What is compared takes turns in one process, and every number is a median over the
turns, so that other work on the machine slows all of it alike. Prints ratios, then times; with
`--out` writes them to a JSON file with a bar chart beside it. Six minutes on two CPU cores.

The floor of a layer is the larger of its FLOPs over the rate of a large matrix product, and of its
bytes, each input read and each output written once, over the rate of a large copy, both measured in
the same run. A small layer that stays in the cache may be below it.
"""

import dataclasses
import functools
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from jax import lax

from experiments.common import cli
from experiments.common.provenance import provenance
from experiments.configs import cifar10, digits, imagenet
from experiments.reports.benchmark import DIRECTIONS, FED, SLEEP_RULES, plot, ratios, table
from lcn_jax import local, sleep
from lcn_jax.data.batches import Pixels
from lcn_jax.errors import UsageError, writing
from lcn_jax.grid import Grid
from lcn_jax.training import cost, parallel, state, train, wake
from lcn_jax.training.metrics import Sums

OUT = flags.DEFINE_string('out', None, 'JSON file to write; the chart gets its name, with .png.')
NETWORKS = flags.DEFINE_list('networks', ['resnet20'], 'Whose layers: resnet20, resnet18.')
flags.register_validator(
    'networks',
    lambda names: names and set(names) <= {'resnet20', 'resnet18'},
    message='it must be one of, or a list of, resnet20 and resnet18.',
)
BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'Images on each device.', lower_bound=1)
SLEEP_BATCH_SIZE = flags.DEFINE_integer(
    'sleep_batch_size', 512, 'Images on each device in the wake step next to the sleeps.'
)
DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Of the computation.')
QUICK = flags.DEFINE_bool('quick', False, 'One layer and a tiny network, in seconds.')


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured and for how long; recorded in the JSON. Batches are those of a device."""

    networks: tuple[str, ...]  # for their layers
    step_network: str
    batch_size: int
    sleep_batch_size: int
    dtype: str
    images: int = 50_000  # of the synthetic dataset
    most_layers: int | None = None  # of each network
    matrix: int = 2048
    copied_numbers: int = 1 << 26
    turns: int = 9
    fewest_turns: int = 3  # however slow a candidate is
    layer_seconds: float = 1.0  # for all turns of a layer's candidate
    step_seconds: float = 15.0  # for all turns of a step's candidate
    turn_seconds: float = 0.02  # faster candidates are called several times in a turn

    @classmethod
    def quick(cls, dtype: str) -> 'Settings':
        return cls(
            ('tiny',), 'tiny', 2, 2, dtype, images=8, most_layers=1, matrix=64,
            copied_numbers=1 << 10, turns=1, fewest_turns=1, turn_seconds=0.0,
        )  # fmt: skip


# ---- Networks. -----------------------------------------------------------------------------------


def _tiny(kind: str) -> ml_collections.ConfigDict:
    config = digits.get_config(kind)
    config.image_size = 8
    config.model.stage_sizes, config.model.width = (1,), 4
    return config


# Of each network: its config, and how many times smaller its batches are than ResNet-20's.
KNOWN_NETWORKS = {
    'resnet20': (cifar10.get_config, 1),
    'resnet18': (imagenet.get_config, 16),
    'tiny': (_tiny, 1),
}


class ConvLocal(nn.Module):
    """`flax.linen.ConvLocal` with the fields that `ResNet` sets, in the layout HWNC."""

    features: int
    kernel_size: int
    strides: int
    padding: int
    use_bias: bool
    layout: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.layout != 'HWNC':
            raise ValueError(f'ConvLocal is made for layout HWNC, got {self.layout!r}.')
        y = nn.ConvLocal(
            self.features,
            kernel_size=(self.kernel_size,) * 2,
            strides=(self.strides,) * 2,
            padding=((self.padding,) * 2,) * 2,
            use_bias=self.use_bias,
            dtype=self.dtype,
            # Positions are no part of the receptive field.
            kernel_init=nn.initializers.variance_scaling(2, 'fan_in', 'normal', batch_axis=(0, 1)),
        )(x.transpose(2, 0, 1, 3))
        return y.transpose(1, 2, 0, 3)


# ---- Timing. -------------------------------------------------------------------------------------


def medians(
    candidates: Mapping[Any, Callable[[], Any]], seconds: float, settings: Settings
) -> dict[Any, float]:
    """Median seconds of a call of each candidate; they take turns.

    A candidate has as many turns as fit into `seconds`, between those that `settings` allows; if it
    has fewer than others, they are spread over all rounds. A turn begins with a call that is not
    counted: the caches and the memory are still those of another program, but a training loop runs
    the same one again and again.
    """
    calls, turns = {}, {}
    for name, call in candidates.items():
        first = _seconds(call, 1)
        calls[name] = max(1, min(100, round(settings.turn_seconds / first)))
        fitting = int(seconds / (calls[name] * first))
        turns[name] = max(settings.fewest_turns, min(settings.turns, fitting))
    times = {name: [] for name in candidates}
    for turn in range(settings.turns):
        for name, call in candidates.items():
            if turn * turns[name] % settings.turns < turns[name]:
                _seconds(call, 1)
                times[name].append(_seconds(call, calls[name]) / calls[name])
    return {name: statistics.median(values) for name, values in times.items()}


def _seconds(call: Callable[[], Any], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        result = call()
    jax.block_until_ready(result)
    return time.perf_counter() - start


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program with what compiling took and the memory it needs besides its arguments."""

    call: Callable
    compile_seconds: float
    temp_bytes: int

    @classmethod
    def of(cls, program: Callable, *arguments) -> 'Compiled':
        """`program` comes from `jax.jit` or `parallel.per_device`."""
        start = time.perf_counter()
        compiled = program.lower(*arguments).compile()
        seconds = time.perf_counter() - start
        return cls(compiled, seconds, compiled.memory_analysis().temp_size_in_bytes)


def machine_rates(settings: Settings) -> dict[str, float]:
    """FLOP/s of a large matrix product in float32 and bfloat16, and bytes/s, read and written."""
    x = jnp.ones(settings.copied_numbers)
    negate = jax.jit(jnp.negative, donate_argnums=0)  # in place: touching new memory costs more

    def copy():
        nonlocal x
        x = negate(x)
        return x

    multiply = jax.jit(jnp.matmul)
    candidates = {'copy': copy}
    for dtype in ('float32', 'bfloat16'):
        matrix = jnp.ones((settings.matrix,) * 2, dtype)
        candidates[dtype] = functools.partial(multiply, matrix, matrix)
    for call in candidates.values():
        jax.block_until_ready(call())
    seconds = medians(candidates, settings.step_seconds, settings)
    return {
        'float32_flops': 2 * settings.matrix**3 / seconds['float32'],
        'bfloat16_flops': 2 * settings.matrix**3 / seconds['bfloat16'],
        'copy_bytes': 2 * x.nbytes / seconds['copy'],
    }


# ---- Layers. -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """What tells layers apart."""

    grid: Grid
    channels: int
    features: int

    def __str__(self):
        grid = self.grid
        (height, width), (kh, kw), stride = grid.input_size, grid.kernel_size, grid.stride[0]
        strided = f' /{stride}' if stride > 1 else ''
        return f'{height}×{width} {self.channels}→{self.features} {kh}×{kw}{strided}'


def distinct_layers(config: ml_collections.ConfigDict) -> list[LayerShape]:
    """The locally connected layers of a network that differ, in the order of computation."""
    layers = cost.layers(train.make_model(config), train.image_shape(config))
    shapes = [LayerShape(layer.grid, *layer.kernel[-2:]) for layer in layers if layer.grid]
    return list(dict.fromkeys(shapes))


def convolution(x: jax.Array, kernel: jax.Array, grid: Grid) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, grid.stride, grid.padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )


def with_gradients(layer: Callable) -> Callable:
    """(x, kernel, dy) -> y, dx, dkernel."""

    def compute(x, kernel, dy):
        y, pullback = jax.vjp(layer, x, kernel)
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
    options = dict(stride=grid.stride, padding=grid.padding, layout='HWNC')
    return {
        'conv': (
            functools.partial(convolution, grid=grid),
            (x_HWNC.transpose(2, 0, 1, 3), random(3, *kernel_shape), dy_HWNC.transpose(2, 0, 1, 3)),
        )
    } | {
        name: (
            functools.partial(local.conv_local, implementation=name, **options),
            (x_HWNC, kernels, dy_HWNC),
        )
        for name in local.IMPLEMENTATIONS
    }


def floor(flops: int, moved: int, dtype: str, rates: Mapping[str, float]) -> dict[str, float | str]:
    """The least seconds for so many FLOPs and so many bytes, and which of them it is."""
    seconds = {'FLOPs': flops / rates[f'{dtype}_flops'], 'bytes': moved / rates['copy_bytes']}
    bound_by = max(seconds, key=seconds.get)
    return {'seconds': seconds[bound_by], 'bound_by': bound_by}


def measure_layer(
    shape: LayerShape, batch_size: int, rates: Mapping[str, float], settings: Settings
) -> dict[str, Any]:
    """Times, compiled memory and the locally connected layer's floor, by direction."""
    candidates = layer_candidates(shape, batch_size, settings.dtype)
    compiled, calls = {}, {}
    for name, (layer, operands) in candidates.items():
        for direction, program, arguments in (
            ('forward', layer, operands[:2]),
            ('forward_backward', with_gradients(layer), operands),
        ):
            compiled[direction, name] = Compiled.of(jax.jit(program), *arguments)
            calls[direction, name] = functools.partial(compiled[direction, name].call, *arguments)
    seconds = medians(calls, settings.layer_seconds, settings)

    x, kernels, dy = candidates[local.default_implementation()][1]
    flops, moved = 2 * batch_size * kernels.size, x.nbytes + kernels.nbytes + dy.nbytes
    floors = {
        'forward': floor(flops, moved, settings.dtype, rates),
        # y, dx and the kernels' gradient from x, kernels and dy.
        'forward_backward': floor(3 * flops, 2 * moved, settings.dtype, rates),
    }
    return {
        'layer': str(shape),
        'kernel_size': shape.grid.kernel_size,
        'batch_size': batch_size,
    } | {
        direction: {
            'seconds': {name: seconds[direction, name] for name in candidates},
            'temp_bytes': {name: compiled[direction, name].temp_bytes for name in candidates},
            'floor': floors[direction],
        }
        for direction in DIRECTIONS
    }


def measure_layers(rates: Mapping[str, float], settings: Settings) -> dict[str, list[dict]]:
    """`measure_layer` of the layers of each network."""
    measured = {}
    for network in settings.networks:
        get_config, smaller = KNOWN_NETWORKS[network]
        shapes = distinct_layers(get_config('lc'))[: settings.most_layers]
        measured[network] = []
        for shape in shapes:
            _say(f'{network}, layer {shape}')
            batch_size = max(1, settings.batch_size // smaller)
            measured[network].append(measure_layer(shape, batch_size, rates, settings))
    return measured


# ---- Training steps and sleeps, run as `train_and_evaluate` runs them. ---------------------------


def starting(model: nn.Module, optimizer, image_shape: tuple[int, int, int]) -> Callable:
    """A call makes a fresh `TrainState` on every device."""
    create = functools.partial(
        state.create, model=model, optimizer=optimizer, image_shape=image_shape
    )
    keys = parallel.replicate(jax.random.key(0))
    return functools.partial(parallel.per_device(create, [0]), keys)


def constant_batch(config: ml_collections.ConfigDict, batch_size: int, classes: int) -> tuple:
    """Images and labels, other ones for each device."""
    rng = np.random.default_rng(0)
    examples = batch_size * jax.local_device_count()
    images = rng.standard_normal((examples, *train.image_shape(config)), np.float32)
    labels = rng.integers(classes, size=examples, dtype=np.int32)
    return parallel.spread((images, labels))


def dataset(config: ml_collections.ConfigDict, images: int, classes: int) -> tuple:
    """What `wake.step` makes batches of: sums, pixels, order and key."""
    rng = np.random.default_rng(0)
    pixels = Pixels(
        images=rng.integers(256, size=(images, *train.image_shape(config)), dtype=np.uint8),
        labels=rng.integers(classes, size=images, dtype=np.int32),
        mean=np.full(train.image_shape(config)[-1:], 0.5, np.float32),
        std=np.full(train.image_shape(config)[-1:], 0.3, np.float32),
    )
    order = rng.permutation(images).astype(np.int32)
    return *parallel.replicate((Sums.zero(), pixels, order)), jax.random.key(0)


def advancing(compiled: Compiled, train_state: state.TrainState, *rest) -> Callable:
    """A call goes on from the state where the last one ended, in the same buffers."""

    def call():
        nonlocal train_state
        train_state, _ = compiled.call(train_state, *rest)
        return train_state

    return call


def measure_steps(settings: Settings) -> dict[str, Any]:
    """Training steps on one batch, and ('... fed') on batches from a dataset on the device."""
    get_config, _ = KNOWN_NETWORKS[settings.step_network]
    config = get_config('lc')
    image_shape = train.image_shape(config)
    conv, lc = (
        train.make_model(get_config(kind)).clone(dtype=jnp.dtype(settings.dtype))
        for kind in ('conv', 'lc')
    )
    models = {'conv': conv, 'lc': lc, 'conv_local': lc.clone(local_conv=ConvLocal)}
    optimizer = wake.optimizer(config, total_steps=1000)
    batch = constant_batch(config, settings.batch_size, lc.num_classes)
    fed = dataset(config, settings.images, lc.num_classes)
    making_batches = dict(
        batch_size=settings.batch_size * jax.device_count(),
        size=config.image_size,
        padding=config.translations.padding,
        repetitions=1,
        flips=config.flip,
    )

    compiled, calls = {}, {}
    for name, model in models.items():
        _say(f'{settings.step_network}, compiling the step {name}')
        learn = dict(model=model, optimizer=optimizer)
        create = starting(model, optimizer, image_shape)
        train_state = create()
        update = parallel.per_device(functools.partial(wake.update, **learn), (0, 0, 0), donate=[0])
        compiled[name] = Compiled.of(update, train_state, *batch)
        calls[name] = advancing(compiled[name], train_state, *batch)
        if name not in FED:
            continue
        step = parallel.per_device(
            functools.partial(wake.step, batch=making_batches, **learn),
            (0, 0, 0, 0, None),
            donate=[0],
        )
        train_state = create()
        compiled[f'{name} fed'] = Compiled.of(step, train_state, *fed)
        calls[f'{name} fed'] = advancing(compiled[f'{name} fed'], train_state, *fed)
    _say(f'{settings.step_network}, training steps')
    return {
        'network': settings.step_network,
        'batch_size': settings.batch_size,
        'flops': settings.batch_size * cost.step_flops(cost.layers(lc, image_shape)),
        'seconds': medians(calls, settings.step_seconds, settings),
        'temp_bytes': {name: program.temp_bytes for name, program in compiled.items()},
        'compile_seconds': {name: program.compile_seconds for name, program in compiled.items()},
    }


def measure_sleep(settings: Settings) -> dict[str, Any]:
    """One sleep by each rule, with the options of the config, and a wake step to compare with."""
    config = KNOWN_NETWORKS[settings.step_network][0]('lc')
    image_shape = train.image_shape(config)
    model = train.make_model(config).clone(dtype=jnp.dtype(settings.dtype))
    optimizer = wake.optimizer(config, total_steps=1000)
    grids = state.grids(model, image_shape)
    batch = constant_batch(config, settings.sleep_batch_size, model.num_classes)

    def asleep(train_state, key, rule):
        slept = sleep.sleep(train_state, key, grids=grids, rule=rule, share_moments=False)
        return slept, None

    update = functools.partial(wake.update, model=model, optimizer=optimizer)
    programs = {'wake': (parallel.per_device(update, (0, 0, 0), donate=[0]), batch)}
    for name in SLEEP_RULES:
        options = {'border': config.sleep.border, **config.sleep[name]}
        program = functools.partial(asleep, rule=sleep.resolve(name, options))
        programs[name] = (
            parallel.per_device(program, (0, None), donate=[0]),
            (jax.random.key(0),),
        )
    create = starting(model, optimizer, image_shape)
    compiled, calls = {}, {}
    for name, (program, rest) in programs.items():
        train_state = create()
        compiled[name] = Compiled.of(program, train_state, *rest)
        calls[name] = advancing(compiled[name], train_state, *rest)
    _say(f'{settings.step_network}, sleeps')
    return {
        'network': settings.step_network,
        'batch_size': settings.sleep_batch_size,
        'seconds': medians(calls, settings.step_seconds, settings),
        'temp_bytes': {name: program.temp_bytes for name, program in compiled.items()},
    }


# ---- All of it. ----------------------------------------------------------------------------------


def run(settings: Settings) -> dict[str, Any]:
    """Measures everything; the dict is what goes into the JSON file."""
    start = time.perf_counter()
    _say('rates of the machine')
    rates = machine_rates(settings)
    layers = measure_layers(rates, settings)
    default = local.default_implementation()
    steps, sleeps = measure_steps(settings), measure_sleep(settings)
    return {
        'settings': dataclasses.asdict(settings),
        **provenance(),
        'seconds': round(time.perf_counter() - start),
        'default': default,
        'ratios': ratios(layers, steps, sleeps, default),
        'rates': rates,
        'layers': layers,
        'steps': steps,
        'sleep': sleeps,
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv):
    del argv
    if QUICK.value:
        settings = Settings.quick(DTYPE.value)
    else:
        settings = Settings(
            tuple(NETWORKS.value), 'resnet20', BATCH_SIZE.value, SLEEP_BATCH_SIZE.value, DTYPE.value
        )
    out = OUT.value and pathlib.Path(OUT.value)
    if out:  # rather fail now than after the measurements
        if out.suffix != '.json':
            raise UsageError(f'--out={out} must end in .json.')
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
    report = run(settings)
    print(table(report))
    if out:
        out.write_text(json.dumps(report, indent=1) + '\n')
        plot(report).savefig(out.with_suffix('.png'), dpi=150)
        print(f'{out} and {out.with_suffix(".png")} are written')


if __name__ == '__main__':
    cli.run(main)
