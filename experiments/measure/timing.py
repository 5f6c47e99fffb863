"""Median times of compiled programs that take turns, and the rates of the machine."""

import dataclasses
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax import lax

from experiments.configs import cifar10, digits, imagenet


@dataclasses.dataclass(frozen=True)
class Settings:
    """The extent of the measurements, recorded in the JSON. Batch sizes are per device."""

    networks: tuple[str, ...]  # for their layers
    step_network: str
    batch_size: int
    sleep_batch_size: int
    dtype: str
    torch: bool = False  # PyTorch's training steps, too
    images: int = 50_000  # of the synthetic dataset
    most_layers: int | None = None  # of each network
    other_layers: bool = True  # a sequence, a volume and a dilated layer
    matrix: int = 2048
    copied_numbers: int = 1 << 26
    turns: int = 9
    fewest_turns: int = 3  # however slow a candidate is
    layer_seconds: float = 1.0  # for all turns of a layer's candidate
    step_seconds: float = 15.0  # for all turns of a step's candidate
    turn_seconds: float = 0.02  # faster candidates are called several times in a turn
    in_loop: int = 1  # calls of a layer in a loop on the device, which are one call here

    @classmethod
    def device(cls, dtype: str) -> 'Settings':
        """On a GPU or TPU, whose time is dear: fewer turns, and a layer takes about ten seconds."""
        return cls(
            ('resnet20',), 'resnet20', 512, 512, dtype, other_layers=False, matrix=8192,
            copied_numbers=1 << 28, layer_seconds=0.3, step_seconds=3.0, in_loop=50,
        )  # fmt: skip

    @classmethod
    def beside_keras(cls) -> 'Settings':
        """For the All-TNN, whose backward pass in Keras takes about a quarter of a GB an image."""
        return cls(('all_tnn',), 'all_tnn', 16, 16, 'float32', step_seconds=8.0)

    @classmethod
    def quick(cls, dtype: str) -> 'Settings':
        return cls(
            ('tiny',), 'tiny', 2, 2, dtype, images=8, most_layers=1, other_layers=False, matrix=64,
            copied_numbers=1 << 10, turns=1, fewest_turns=1, turn_seconds=0.0,
        )  # fmt: skip


def _tiny(kind: str) -> ml_collections.ConfigDict:
    config = digits.get_config(kind)
    config.image_size = 8
    config.model.stage_sizes = (1,)
    return config


# Of each network: its config, and how many times smaller its batches are than ResNet-20's.
KNOWN_NETWORKS = {
    'resnet20': (cifar10.get_config, 1),
    'resnet18': (imagenet.get_config, 16),
    'tiny': (_tiny, 1),
}


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


def looped(program: Callable, times: int) -> Callable:
    """The program, `times` times in a row on the device: it is faster than the host can call it.

    The barrier keeps the compiler from taking it out of the loop; XLA:CPU ignores it.
    """

    def run(*arguments):
        def body(_, carry):
            arguments, _ = lax.optimization_barrier(carry)
            return arguments, program(*arguments)

        return lax.fori_loop(1, times, body, (arguments, program(*arguments)))[1]

    return run


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program with what compiling took and the memory it needs besides its arguments."""

    call: Callable
    compile_seconds: float
    temp_bytes: int

    @classmethod
    def of(cls, program: Callable, arguments: Sequence) -> 'Compiled':
        """`program` comes from `jax.jit` or `parallel.per_device`."""
        start = time.perf_counter()
        compiled = program.lower(*arguments).compile()
        seconds = time.perf_counter() - start
        return cls(compiled, seconds, compiled.memory_analysis().temp_size_in_bytes)

    @classmethod
    def all_of(cls, programs: Mapping[Any, tuple[Callable, Sequence]]) -> dict[Any, 'Compiled']:
        """`of` each program and its arguments.

        For a GPU or TPU side by side, because its time is dear: what compiling takes is then less
        than the sum, and more than it is alone.
        """
        side_by_side = 1 if jax.default_backend() == 'cpu' else os.cpu_count()
        with futures.ThreadPoolExecutor(side_by_side) as pool:
            compiled = pool.map(lambda name: cls.of(*programs[name]), programs)
            return dict(zip(programs, compiled))


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


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
