"""Times and memory of training steps and sleeps, run as `train_and_evaluate` runs them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.measure.timing import KNOWN_NETWORKS, Compiled, Settings, medians, say
from experiments.reports.benchmark import FED, SLEEP_RULES
from lcn_jax.data.batches import Pixels
from lcn_jax.layer.backends.bilinear import has_native
from lcn_jax.networks.resnet import ResNet
from lcn_jax.training import cost, parallel, wake
from lcn_jax.training.experiment import Experiment
from lcn_jax.training.metrics import Sums
from lcn_jax.training.state import TrainState

TOTAL_STEPS = 1000  # of the training that the steps are taken from


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
            padding=((self.padding, self.padding),) * 2,
            use_bias=self.use_bias,
            dtype=self.dtype,
            # Positions are no part of the receptive field.
            kernel_init=nn.initializers.variance_scaling(2, 'fan_in', 'normal', batch_axis=(0, 1)),
        )(x.transpose(2, 0, 1, 3))
        return y.transpose(1, 2, 0, 3)


def nn_conv(*, kernel_size, strides, padding, layout, **fields) -> nn.Conv:
    """`flax.linen.Conv` with the fields that `ResNet` sets."""
    del layout
    return nn.Conv(
        kernel_size=(kernel_size,) * 2,
        strides=(strides,) * 2,
        padding=((padding, padding),) * 2,
        **fields,
    )


class XLAResNet(ResNet):
    """`ResNet` with the convolutions of XLA, in the layout that suits them."""

    @property
    def layout(self) -> str:
        return 'NHWC'

    @classmethod
    def of(cls, model: ResNet) -> 'XLAResNet':
        fields = [f.name for f in dataclasses.fields(model) if f.name not in ('parent', 'name')]
        made: dict[str, Any] = {name: getattr(model, name) for name in fields}
        return cls(**made | {'local': True, 'local_conv': nn_conv})


def experiment_of(settings: Settings, kind: str, rule: str = 'none') -> Experiment:
    """The experiment of a kind of the network whose steps are measured."""
    config = KNOWN_NETWORKS[settings.step_network][0](kind)
    config.model.dtype, config.sleep.rule = settings.dtype, rule
    config.batch_size = settings.batch_size * jax.device_count()
    config.translations.repetitions = 1
    return Experiment.create(config)


def start(experiment: Experiment) -> TrainState:
    """A fresh state on every device."""
    return experiment.init(parallel.replicate(jax.random.key(0)))


def update(experiment: Experiment) -> Callable:
    """The wake step on a given batch."""
    learner = wake.Learner(experiment.network.model, experiment.optimizer(TOTAL_STEPS))
    program = functools.partial(wake.update, learner=learner)
    return parallel.per_device(program, (0, 0, 0), donate=[0])


def constant_batch(experiment: Experiment, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((examples, *experiment.network.image_shape), np.float32)
    labels = rng.integers(experiment.network.model.num_classes, size=examples, dtype=np.int32)
    return images, labels


def spread_batch(experiment: Experiment, batch_size: int) -> tuple:
    """A constant batch, with `batch_size` other examples on each device."""
    return parallel.spread(constant_batch(experiment, batch_size * jax.local_device_count()))


def dataset(experiment: Experiment, images: int) -> tuple:
    """The arguments of `wake.step` after the state: sums, pixels, order and key."""
    rng = np.random.default_rng(0)
    shape = experiment.network.image_shape
    pixels = Pixels(
        images=rng.integers(256, size=(images, *shape), dtype=np.uint8),
        labels=rng.integers(experiment.network.model.num_classes, size=images, dtype=np.int32),
        mean=np.full(shape[-1:], 0.5, np.float32),
        std=np.full(shape[-1:], 0.3, np.float32),
    )
    order = rng.permutation(images).astype(np.int32)
    return *parallel.replicate((Sums.zero(), pixels, order)), jax.random.key(0)


def advancing(compiled: Compiled, train_state: TrainState, *rest) -> Callable:
    """A call continues from the state where the last one ended, in the same buffers."""

    def call():
        nonlocal train_state
        train_state, _ = compiled.call(train_state, *rest)
        return train_state

    return call


def measure_steps(rates: Mapping[str, float], settings: Settings) -> dict[str, Any]:
    """Training steps on one batch, and ('... fed') on batches from a dataset on the device.

    The floor of 'lc' is that of its products and of AdamW, which reads p, m, v and the gradient and
    writes p, m and v. Steps of PyTorch ('torch ...') have no compiled program whose memory could be
    told.
    """
    lc, conv = experiment_of(settings, 'lc'), experiment_of(settings, 'conv')

    def with_model(experiment, model):
        network = dataclasses.replace(experiment.network, model=model)
        return dataclasses.replace(experiment, network=network)

    experiments = {'lc': lc, 'conv': conv}
    if has_native(settings.dtype):  # else 'conv' is XLA's
        experiments['xla_conv'] = with_model(conv, XLAResNet.of(cast(ResNet, conv.network.model)))
    conv_local = lc.network.model.clone(local_conv=ConvLocal)
    experiments['conv_local'] = with_model(lc, conv_local)
    batch = spread_batch(lc, settings.batch_size)
    fed = dataset(lc, settings.images)
    programs = {}
    for name, experiment in experiments.items():
        programs[name] = update(experiment), (start(experiment), *batch)
        if name in FED:
            step = functools.partial(wake.step, learner=experiment.learner(TOTAL_STEPS))
            step = parallel.per_device(step, (0, 0, 0, 0, None), donate=[0])
            programs[f'{name} fed'] = step, (start(experiment), *fed)
    say(f'{settings.step_network}, compiling the steps')
    compiled = Compiled.all_of(programs)
    calls = {name: advancing(compiled[name], *programs[name][1]) for name in programs}
    if settings.torch:
        from experiments.measure import torch_steps  # PyTorch need not be installed

        images, labels = constant_batch(lc, settings.batch_size)
        first = {name: calls[name] for name in FED}
        calls = first | torch_steps.steps(conv, lc, images, labels) | calls
    say(f'{settings.step_network}, training steps')
    layers = cost.layers(lc.network.model, lc.network.image_shape)
    flops = settings.batch_size * cost.step_flops(layers)
    of_adamw = 7 * 4 * lc.network.parameters  # bytes
    return {
        'network': settings.step_network,
        'batch_size': settings.batch_size,
        'flops': flops,
        'floor_seconds': flops / rates[f'{settings.dtype}_flops'] + of_adamw / rates['copy_bytes'],
        'seconds': medians(calls, settings.step_seconds, settings),
        'temp_bytes': {name: program.temp_bytes for name, program in compiled.items()},
        'compile_seconds': {name: program.compile_seconds for name, program in compiled.items()},
    }


def measure_sleep(settings: Settings) -> dict[str, Any]:
    """One sleep by each rule, with the options of the config, and a wake step to compare with."""
    lc = experiment_of(settings, 'lc')
    batch = spread_batch(lc, settings.sleep_batch_size)
    programs = {'wake': (update(lc), (start(lc), *batch))}
    for name in SLEEP_RULES:
        experiment = experiment_of(settings, 'lc', rule=name)

        def asleep(train_state, key, experiment=experiment):
            return experiment.sleep_step(experiment.network.grids)(train_state, key), None

        program = parallel.per_device(asleep, (0, None), donate=[0])
        programs[name] = program, (start(lc), jax.random.key(0))
    compiled = Compiled.all_of(programs)
    calls = {name: advancing(compiled[name], *programs[name][1]) for name in programs}
    say(f'{settings.step_network}, sleeps')
    return {
        'network': settings.step_network,
        'batch_size': settings.sleep_batch_size,
        'seconds': medians(calls, settings.step_seconds, settings),
        'temp_bytes': {name: program.temp_bytes for name, program in compiled.items()},
    }
