"""An experiment: the network of a config, how it learns and sleeps, and its compiled programs."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from ml_collections import FrozenConfigDict

from lcn_jax import plugins
from lcn_jax.convert import shared
from lcn_jax.data.batches import BatchSpec
from lcn_jax.errors import UsageError
from lcn_jax.learning import feedback, penalties
from lcn_jax.training import config as configs
from lcn_jax.training import (
    freezing,
    inputs,
    measures,
    metrics,
    optimizer,
    parallel,
    sharding,
    sleep_step,
    wake,
)
from lcn_jax.training.network import Network
from lcn_jax.training.schedule import Schedule
from lcn_jax.training.state import TrainState, of_variables, owners


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """Everything that a config describes, except the seed; made by `Experiment.create`.

    config: without the seed.

    The programs (`init`, `wake`, `sleep`, `evaluate`, `similarity`, `is_finite`) run on all
    devices, where their arguments and results are (`parallel.py`), except for keys and numbers of
    steps. Each is made when it is first used, and compiled when it is first called. A run of
    several seeds keeps one experiment and so compiles once. Only `schedule` and `wake` need the
    data, whose size they depend on.
    """

    config: FrozenConfigDict
    network: Network

    @classmethod
    def create(cls, config: ml_collections.ConfigDict) -> 'Experiment':
        """The experiment of a config.

        Raises:
          UsageError: the config has values that are unknown or do not go together.
        """
        configs.check(config)
        return cls(configs.without_seed(config), Network.create(config))

    # ---- The state. ------------------------------------------------------------------------------

    def initial_state(self, key: jax.Array) -> TrainState:
        """The state before the first step, with whole kernels."""
        network, config = self.network, self.config.model
        images = jnp.zeros((1, *network.image_shape))
        variables = network.model.init(key, images, train=False)
        if config.init == 'common' and network.grids:
            noise_key = jax.random.fold_in(key, 1)
            params = shared.alike(variables['params'], network.grids, config.init_noise, noise_key)
            variables = {**variables, 'params': params}
        return self.state_of(variables)

    def state_of(self, variables: Mapping[str, Any]) -> TrainState:
        """The state before the first step with these variables, whose kernels are whole."""
        sleep = self.config.sleep
        kept = self.network.plastic if sleep.full_step and sleep.rule != 'none' else {}
        return of_variables(variables, self.optimizer(total_steps=1), kept)

    @cached_property
    def shapes(self) -> TrainState:
        """The state with whole kernels, a `jax.ShapeDtypeStruct` for every array."""
        return jax.eval_shape(self.state_of, self.network.variables)

    @cached_property
    def owners(self) -> TrainState:
        """For every array of the state on the devices, the local parameter that it belongs to."""
        return owners(self.shapes, self.network.grids_on_devices)

    @cached_property
    def init(self) -> Callable[[jax.Array], TrainState]:
        """key -> state."""
        return parallel.per_device(
            lambda key: sharding.own(self.initial_state(key), self.owners), [0], draws=True
        )

    def place(self, whole: TrainState) -> TrainState:
        """Puts a state of numpy arrays, with whole kernels, on the devices."""
        return sharding.place(whole, self.owners)

    def snapshot(self, state: TrainState) -> TrainState:
        """What a checkpoint keeps of the state on the devices."""
        return sharding.snapshot(state, self.owners)

    # ---- Awake. ----------------------------------------------------------------------------------

    @cached_property
    def schedule(self) -> Schedule:
        """When a run sleeps, logs, evaluates and saves.

        Raises:
          UsageError: the data is not there, the devices cannot divide a batch, or a batch has more
            images than there are.
        """
        return Schedule.of(self.config, inputs.steps_per_epoch(self.config))

    def optimizer(self, total_steps: int) -> optax.GradientTransformation:
        """For a number of training steps, on which only its learning rate depends."""
        plastic = self.network.on_devices(self.network.plastic)
        made = optimizer.make(self.config, plastic, total_steps)
        return freezing.optimizer(made, self.config.freeze)

    @cached_property
    def penalty(self) -> Callable | None:
        """params -> the penalty of one device, at its full weight; None if there is none.

        Raises:
          UsageError: there is no such penalty, or it cannot be computed for this network.
        """
        chosen, network = self.config.penalty, self.network
        if chosen.name == 'none':
            return None
        options = {'border': self.config.pools.border, **configs.options(chosen, chosen.name)}
        penalty = penalties.resolve(chosen.name, options)

        def weighted(params, grids):
            return chosen.weight * penalties.total(params, grids, penalty, chosen.factors)

        with plugins.usage_errors('config.penalty', chosen.name):
            jax.eval_shape(partial(weighted, grids=network.grids), network.variables['params'])
        return partial(weighted, grids=network.grids_on_devices)

    @property
    def forward(self) -> feedback.Rule:
        """How errors get to hidden layers."""
        rule = feedback.RULES[self.config.feedback]
        if not self.config.sleep.feedback:
            return rule
        of_pools = {'grids': self.network.grids, 'border': self.config.pools.border}
        return partial(rule, asleep=partial(feedback.means, **of_pools))

    def learner(self, total_steps: int) -> wake.Learner:
        """How the network learns in a training of this many steps."""
        config, full = self.config, self.penalty
        share = penalties.SCHEDULES[config.penalty.schedule]
        return wake.Learner(
            model=self.network.model,
            optimizer=self.optimizer(total_steps),
            forward=self.forward,
            penalty=full and (lambda params, step: share(step / total_steps) * full(params)),
            frozen=config.freeze,
            mean=partial(sharding.mean, grids=self.network.grids_on_devices),
            batch=BatchSpec(
                batch_size=config.batch_size,
                size=config.image_size,
                padding=config.translations.padding,
                repetitions=config.translations.repetitions,
                flips=config.flip,
            ),
        )

    @cached_property
    def wake(self) -> Callable:
        """state, Sums, pixels, order, key, steps -> state, Sums; it takes `steps` wake steps."""
        return wake.compile_steps(self.learner(self.schedule.total_steps))

    # ---- Asleep. ---------------------------------------------------------------------------------

    def sleep_step(self, grids: Mapping) -> Callable[[TrainState, jax.Array], TrainState]:
        """The sleep of one device, not compiled: state, key -> state.

        grids: of what is plastic, on devices or with whole kernels.
        """
        return partial(
            sleep_step.step,
            grids=grids,
            rule=sleep_step.rule(self.config),
            share_moments=self.config.sleep.share_moments,
            equalise_momentum=self.config.sleep.equalise_momentum,
            full_step=self.config.sleep.full_step,
        )

    @cached_property
    def sleep(self) -> Callable[[TrainState, jax.Array], TrainState]:
        """state, key -> state, by the sharing rule of the config.

        Raises:
          UsageError: there is no such rule, or it cannot run on the kernels of this network.
        """
        of_whole_kernels = parallel.as_on_devices(self.sleep_step(self.network.plastic))
        with plugins.usage_errors('config.sleep', self.config.sleep.rule):
            jax.eval_shape(of_whole_kernels, self.shapes, jax.random.key(0))
        on_devices = self.sleep_step(self.network.on_devices(self.network.plastic))
        sleep = parallel.per_device(on_devices, (0, None), donate=[0], draws=True)
        return partial(self._checked, sleep) if ':' in self.config.sleep.rule else sleep

    def _checked(self, sleep: Callable, state: TrainState, key: jax.Array) -> TrainState:
        """A sleep by a rule of the user's own; UsageError, with its name, if it makes NaN."""
        before = parallel.first(self.is_finite(state))
        state = sleep(state, key)
        if before and not parallel.first(self.is_finite(state)):
            raise UsageError(
                f'config.sleep.rule={self.config.sleep.rule} made parameters that are not finite, '
                f'of parameters that were, in the sleep at step {parallel.first(state.step)}.'
            )
        return state

    # ---- Measured. -------------------------------------------------------------------------------

    @cached_property
    def evaluate(self) -> Callable:
        """variables, pixels -> Sums over the pixels of all devices."""
        return self._evaluation(metrics.Sums.of)

    @cached_property
    def confusion(self) -> Callable:
        """variables, pixels -> Sums, and the confusion matrix, over the pixels of all devices."""
        return self._evaluation(metrics.with_confusion)

    def _evaluation(self, measure: Callable) -> Callable:
        program = partial(
            wake.evaluate,
            model=self.network.model,
            batch_size=max(1, self.config.batch_size // jax.device_count()),
            size=self.config.image_size,
            measure=measure,
        )
        return parallel.per_device(program, (0, 0))

    @cached_property
    def similarity(self) -> Callable[[TrainState], dict[str, jax.Array]]:
        """state -> `measures.similarity`."""
        program = partial(
            measures.similarity,
            grids=self.network.grids_on_devices,
            border=self.config.pools.border,
            penalty=self.penalty,
        )
        return parallel.per_device(program, [0])

    @cached_property
    def is_finite(self) -> Callable[[TrainState], jax.Array]:
        """state -> whether all its numbers are finite."""
        return parallel.per_device(wake.is_finite, [0])
