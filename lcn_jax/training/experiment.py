"""An experiment: the network of a config, its optimizer and its compiled programs, without data."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_collections
import optax
from ml_collections import FrozenConfigDict

from lcn_jax import convert, feedback, kernels, local, penalties, plugins, snr
from lcn_jax.data.sources import Source
from lcn_jax.errors import UsageError
from lcn_jax.local import LocalConv
from lcn_jax.low_rank import LowRankConv
from lcn_jax.resnet import ResNet
from lcn_jax.training import config as configs
from lcn_jax.training import optimizer, parallel, sharding, sleep_step, state, wake


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """Everything that a config describes but the data and the seed; made by `Experiment.create`.

    config: without the seed. image_shape: (H, W, C) of the network's input.

    The programs (`init`, `wake`, `sleep`, `evaluate`, `similarity`, `is_finite`) run on all
    devices: their arguments and results have a leading axis of devices, except for keys and numbers
    of steps. Each is made when it is first used, and compiled when it is first called. A run of
    several seeds keeps one experiment and so compiles once.
    """

    config: FrozenConfigDict
    model: nn.Module
    image_shape: tuple[int, int, int]

    @classmethod
    def create(cls, config: ml_collections.ConfigDict) -> 'Experiment':
        """The experiment of a config.

        Raises:
          UsageError: the config has values that are unknown or do not go together.
        """
        configs.check(config)
        dataset = Source(config.dataset, config.data_dir).spec
        undivided = config.copy_and_resolve_references()
        undivided.shard_kernels = False
        experiment = cls(
            config=configs.without_seed(config),
            model=make_model(undivided, dataset.num_classes),
            image_shape=(config.image_size, config.image_size, dataset.image_shape[2]),
        )
        _check_connectivity(experiment)
        if config.shard_kernels:
            network = experiment.model_of_devices, experiment.image_shape
            sharding.check_model(*network, config.model.name)
        return experiment

    @cached_property
    def model_of_devices(self) -> nn.Module:
        """`model` as the programs have it: with its local kernels divided, if they are."""
        if not self.config.shard_kernels:
            return self.model
        dataset = Source(self.config.dataset, self.config.data_dir).spec
        return make_model(self.config, dataset.num_classes)

    @property
    def shard_axis(self) -> str | None:
        """The axis of the devices that divide the local kernels; None if they are not divided."""
        return parallel.AXIS if self.config.shard_kernels else None

    @property
    def divided_grids(self) -> Mapping[str, Any]:
        """`grids` of the kernels that the devices divide."""
        return kernels.of_kernels(self.grids) if self.config.shard_kernels else {}

    def initial_state(self, key: jax.Array) -> state.TrainState:
        """The state before the first step, with whole kernels."""
        fresh = state.create(key, self.model, self.optimizer(1), self.image_shape)
        if self.config.model.init == 'independent' or not self.grids:
            return fresh
        noise, noise_key = self.config.model.init_noise, jax.random.fold_in(key, 1)
        params = convert.alike(fresh.params, self.grids, noise, noise_key)
        return state.of_variables(fresh.variables | {'params': params}, self.optimizer(1))

    @cached_property
    def _variables_and_grids(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        return local.variables_and_grids(self.model, self.image_shape)

    @cached_property
    def shapes(self) -> state.TrainState:
        """The state with whole kernels, a `jax.ShapeDtypeStruct` for every array."""
        of_variables = partial(state.of_variables, optimizer=self.optimizer(1))
        return jax.eval_shape(of_variables, self._variables_and_grids[0])

    @cached_property
    def shapes_on_devices(self) -> state.TrainState:
        """Those of the state that `init` returns."""
        return sharding.shapes(self.shapes, self.divided_grids)

    @cached_property
    def grids(self) -> Mapping[str, Any]:
        """The `Grid` of all that is local, at its path in the params."""
        grids = self._variables_and_grids[1]
        return kernels.joined(grids) if self.config.sleep.pools == 'joined' else grids

    def optimizer(self, total_steps: int) -> optax.GradientTransformation:
        """For a number of training steps, on which only its learning rate depends."""
        return optimizer.make(self.config, self.grids, total_steps)

    @property
    def mean(self) -> Callable:
        """Inside a program: the mean over devices of gradients of the loss."""
        if self.config.shard_kernels:
            return partial(sharding.mean, grids=self.divided_grids)
        return parallel.mean

    @property
    def penalty(self) -> Callable:
        """Inside a program: params -> what is added to the loss.

        Raises:
          UsageError: there is no such penalty, or it does not take the options of the config.
        """
        chosen, border = self.config.penalty, self.config.sleep.border
        if chosen.name == 'none':
            return lambda params: 0.0
        options = {'border': border, **configs.options(chosen, chosen.name)}
        penalty = penalties.resolve(chosen.name, options)
        of_layers = partial(
            penalties.total, grids=self.grids, penalty=penalty, shard_axis=self.shard_axis
        )
        return lambda params: chosen.weight * of_layers(params)

    @cached_property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.shapes.params))

    @cached_property
    def init(self) -> Callable[[jax.Array], state.TrainState]:
        """key -> state."""
        return parallel.per_device(
            lambda key: sharding.own(self.initial_state(key), self.divided_grids), [0]
        )

    def place(self, whole: state.TrainState) -> state.TrainState:
        """Puts a state of numpy arrays, with whole kernels, on the devices."""
        return sharding.place(whole, self.divided_grids)

    def snapshot(self, train_state: state.TrainState) -> state.TrainState:
        """What a checkpoint keeps of the state on the devices."""
        return sharding.snapshot(train_state, self.divided_grids)

    def wake_step(self, total_steps: int) -> Callable:
        """The wake step of one device in a training of `total_steps` steps, not compiled."""
        config = self.config
        return partial(
            wake.step,
            model=self.model_of_devices,
            optimizer=optimizer.make(config, self.grids, total_steps, self.shard_axis),
            mean=self.mean,
            penalty=self.penalty,
            forward=feedback.RULES[config.feedback],
            batch=dict(
                batch_size=config.batch_size,
                size=config.image_size,
                padding=config.translations.padding,
                repetitions=config.translations.repetitions,
                flips=config.flip,
            ),
        )

    @cached_property
    def wake(self) -> Callable[[int], Callable]:
        """total_steps -> (state, Sums, pixels, order, key, steps -> state, Sums).

        The program of a training of `total_steps` steps; it takes `steps` of them.
        """
        return functools.cache(lambda steps: wake.compile_stretch(self.wake_step(steps)))

    @property
    def sleep_step(self) -> Callable[..., state.TrainState]:
        """The sleep of one device, not compiled: state, key -> state."""
        return partial(
            sleep_step.step,
            grids=self.grids,
            rule=sleep_step.rule(self.config),
            share_moments=self.config.sleep.share_moments,
            full_step=self.config.sleep.full_step,
            shard_axis=self.shard_axis,
        )

    @cached_property
    def sleep(self) -> Callable[[state.TrainState, jax.Array], state.TrainState]:
        """state, key -> state, by the sleep rule of the config.

        Raises:
          UsageError: the rule cannot run on the kernels of this network.
        """
        of_whole_kernels = partial(self.sleep_step, shard_axis=None)
        try:
            jax.eval_shape(of_whole_kernels, self.shapes, jax.random.key(0))
        except (TypeError, ValueError) as e:
            if isinstance(e, UsageError):
                raise
            reason = str(e).partition('\n')[0]
            raise UsageError(f'the sleep of config.sleep cannot run: {reason}') from e
        return parallel.per_device(self.sleep_step, (0, None), donate=[0])

    @cached_property
    def evaluate(self) -> Callable:
        """state, pixels -> Sums over the pixels of all devices."""
        program = partial(
            wake.evaluate,
            model=self.model_of_devices,
            batch_size=max(1, self.config.batch_size // jax.device_count()),
            size=self.config.image_size,
        )
        return parallel.per_device(program, (0, 0))

    @cached_property
    def similarity(self) -> Callable[[state.TrainState], dict[str, jax.Array]]:
        """state -> weight_snr, the mean over layers, and weight_deviation, of the network; penalty.

        Without what has no meaning: a network without locally connected layers has neither, one
        without two neurons in a pool has no SNR.
        """

        def measure(train_state):
            network = train_state.params, self.grids, self.config.sleep.border, self.shard_axis
            snrs = [of_layer.mean() for of_layer in snr.layer_snrs(*network).values()]
            found = {'weight_snr': sum(snrs) / len(snrs)} if snrs else {}
            if self.grids:
                found['weight_deviation'] = snr.network_deviation(*network)
            if self.config.penalty.name != 'none':
                found['penalty'] = self.penalty(train_state.params)
            return found

        return parallel.per_device(measure, [0])

    @cached_property
    def is_finite(self) -> Callable[[state.TrainState], jax.Array]:
        """state -> whether all its numbers are finite."""
        return parallel.per_device(wake.is_finite, [0])


def make_model(config: ml_collections.ConfigDict, num_classes: int) -> nn.Module:
    """The network of a config, without parameters.

    A model of the user's own, `config.model.name = 'module:function'`, is what
    `function(config, num_classes)` returns; docs/models.md says what it must be able to do.
    """
    if config.model.name != 'resnet':
        return plugins.load(config.model.name, 'model', ['resnet'])(config, num_classes)
    if config.connectivity == 'low_rank':
        local_conv = partial(LowRankConv, rank=config.model.rank)
    else:
        shard_axis = parallel.AXIS if config.shard_kernels else None
        local_conv = partial(LocalConv, shard_axis=shard_axis)
    return ResNet(
        stage_sizes=tuple(config.model.stage_sizes),
        width=config.model.width,
        stem=config.model.stem,
        num_classes=num_classes,
        local=config.connectivity != 'conv',
        n_first_conv=config.model.n_first_conv,
        shared=config.model.shared,
        norm=config.model.norm,
        dtype=jnp.dtype(config.model.dtype),
        batch_axis=parallel.AXIS if config.model.sync_batch_norm else None,
        local_conv=local_conv,
    )


def _check_connectivity(experiment: Experiment) -> None:
    """UsageError if no layer is locally connected, or a pattern of names matches none."""
    config = experiment.config
    if config.connectivity == 'conv':
        return
    params = experiment.shapes.params
    low_rank = config.connectivity == 'low_rank'
    mixes = any(path[-1] == 'rows' for path in flax.traverse_util.flatten_dict(params))
    if not (mixes if low_rank else experiment.grids):
        remedy = (
            'lower config.model.n_first_conv, change config.model.shared,'
            if config.model.name == 'resnet'
            else f'use {"LowRankConv" if low_rank else "LocalConv"} in {config.model.name},'
        )
        raise UsageError(
            f'no layer of the network is locally connected: {remedy} or set '
            'config.connectivity=conv.'
        )
    if config.model.name != 'resnet' or not config.model.shared:
        return
    convolutions = [name for name in params if jnp.ndim(params[name].get('kernel', 0)) >= 4]
    if not any(re.fullmatch(config.model.shared, name) for name in convolutions):
        raise UsageError(
            f'config.model.shared={config.model.shared} does not match the whole name of any of '
            f'the convolutions {", ".join(convolutions)}.'
        )
