"""Configs: every field with its default, the kinds of network, and the check of the values.

The kinds are points on three axes: connectivity, translations, sleep.
"""

import re
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from lcn_jax.data.sources import Source
from lcn_jax.errors import UsageError
from lcn_jax.learning import feedback
from lcn_jax.networks.resnet import STEMS

# The settings that go with joined pools; docs/method.md explains them.
JOINED = {
    'sleep.pools': 'joined',
    'sleep.share_moments': True,
    'sleep.full_step': True,
    'model.init': 'common',
}

KINDS = {
    'conv': {},
    'lc': {'connectivity': 'lc'},
    'lc_translations': {'connectivity': 'lc', 'translations.repetitions': 4},
    'lc_hebbian': {'connectivity': 'lc', 'sleep.rule': 'hebbian'},
    'lc_mean': {'connectivity': 'lc', 'sleep.rule': 'mean'},
    'lc_exact': {'connectivity': 'lc', 'sleep.rule': 'exact'},
    'lc_circuit': {'connectivity': 'lc', 'sleep.rule': 'circuit'},
    **{
        f'lc_{rule}_joined': {'connectivity': 'lc', 'sleep.rule': rule} | JOINED
        for rule in ('mean', 'hebbian')
    },
}


def default() -> ConfigDict:
    """Every field with its default; the files in `experiments/configs` only change values."""
    config = ConfigDict()
    config.seed = 0
    config.shard_kernels = False  # local kernels divided among the devices by position

    config.dataset = 'digits'
    config.data_dir = '~/tensorflow_datasets'
    config.validation = 0  # training images held out and evaluated on instead of the test images
    config.train_images = 0  # train on this many random ones; 0: on all
    config.image_size = 16  # pixels; images are cropped to this
    config.flip = False  # mirror training images half of the time
    config.mean = ()  # per channel, of training pixels in [0, 1]; (): computed from them
    config.std = ()  # like the mean
    config.workers = 8  # processes that decode images, for datasets that do not fit on the device
    config.translations = ConfigDict()
    config.translations.padding = 0  # training crops move this far from the centre
    config.translations.repetitions = 1  # independently moved copies of an image in a batch

    config.connectivity = 'conv'  # or 'lc', or 'low_rank', of which docs/laboratory.md tells
    config.model = ConfigDict()
    config.model.name = 'resnet'  # or 'module:function' for a model of one's own
    config.model.stage_sizes = (3, 3, 3)  # residual blocks
    config.model.width = 16  # channels of the first stage
    config.model.stem = 'cifar'  # or 'strided' or 'imagenet'
    config.model.n_first_conv = 0  # this many convolutions, from the input on, stay shared
    config.model.shared = ''  # regular expression for the names of others that stay shared
    config.model.dtype = 'float32'  # of the computation; parameters are float32
    config.model.sync_batch_norm = False  # batch statistics over all devices
    config.model.norm = 'shared'  # BatchNorm; 'local': of each neuron's own; 'none': biases instead
    config.model.init = 'independent'  # or 'common': local kernels start alike at all positions ...
    config.model.init_noise = 0.0  # ... plus noise, as a fraction of their standard deviation
    config.model.rank = 2  # of connectivity 'low_rank': kernels that each layer mixes

    config.batch_size = 512  # over all devices
    config.epochs = 200
    config.learning_rate = 1e-3
    config.drop = 0.25  # factor on the learning rate ...
    config.drops_at = (0.5, 0.75)  # ... at these fractions of training
    config.weight_decay = 1e-2
    config.optimizer = 'adamw'  # or 'sgd' or 'beta_lasso'
    config.momentum = 0.9  # of sgd and beta_lasso; the decay of the first moment of adamw
    config.lasso = 1e-5  # of beta_lasso: strength of the L1 penalty on kernels ...
    config.beta = 50.0  # ... whose weights become 0 where they are below beta × lasso

    config.feedback = 'backprop'  # or 'alignment', 'direct', 'readout', of lcn_jax/feedback.py

    config.penalty = ConfigDict()
    config.penalty.name = 'none'  # or one of lcn_jax.penalties, or 'module:function'
    config.penalty.weight = 1.0  # times the sum over layers, added to the loss that is descended

    config.sleep = ConfigDict()
    config.sleep.rule = 'none'  # or a rule of lcn_jax.sleep, or 'module:function' for one's own
    config.sleep.every = 10  # wake steps between sleeps
    config.sleep.until = 0  # the epoch whose end has the last sleep; 0: that of the training
    config.sleep.pools = 'tiled'  # or 'joined': all positions of a layer are one pool
    config.sleep.border = 'include'  # or 'exclude' neurons that see the padding from all sharing
    config.sleep.share_moments = False  # also average the optimizer's moments of the kernels
    config.sleep.full_step = False  # rescale a pool's common change to its members' changes
    config.sleep.mean = ConfigDict()  # the options of each rule, under the name of its function
    config.sleep.exact = ConfigDict()
    config.sleep.exact.gamma = 1e-5
    config.sleep.hebbian = ConfigDict()
    config.sleep.hebbian.gamma = 1e-5
    config.sleep.hebbian.learning_rate = 0.1
    config.sleep.hebbian.steps = 100
    config.sleep.hebbian.patterns_per_step = 128
    config.sleep.hebbian.momentum = 0.0
    config.sleep.hebbian.split_patterns = False  # over the devices, instead of all on each
    config.sleep.circuit = ConfigDict()
    config.sleep.circuit.gamma = 1e-3
    config.sleep.circuit.learning_rate = 2.5e-4
    config.sleep.circuit.patterns_per_weight = 4
    config.sleep.circuit.steps_per_pattern = 150
    config.sleep.circuit.momentum = 0.95
    config.sleep.circuit.alpha = 10.0
    config.sleep.circuit.tau = 30.0
    config.sleep.circuit.b = 1.0
    config.sleep.low_rank = ConfigDict()
    config.sleep.low_rank.rank = 2

    config.log_every = 100  # steps
    config.evaluate_every = 1  # epochs; also at the end
    config.checkpoint_every = 1000  # steps; also the best, and at the end; 0: only at the end
    config.tensorboard = False  # also write the records for TensorBoard
    return config


def apply_kind(config: ConfigDict, kind: str) -> ConfigDict:
    """Moves `config` to a kind's point on the axes; UsageError lists the known kinds."""
    if kind not in KINDS:
        raise UsageError(f'unknown kind {kind!r}; known: {", ".join(KINDS)}.')
    config.update_from_flattened_dict(KINDS[kind])
    return config


def without_seed(config: ConfigDict) -> FrozenConfigDict:
    """All values but the seed: what runs have in common that differ in their seeds only."""
    values = config.to_dict()
    del values['seed']
    return FrozenConfigDict(values)


def of_all_processes(config: ConfigDict | FrozenConfigDict) -> dict[str, Any]:
    """The values, by field, that the processes of a run must have in common."""
    names = default().to_dict().keys() - {'data_dir', 'workers'}
    return {name: config.to_dict()[name] for name in sorted(names)}


def complete(values: dict[str, Any]) -> ConfigDict:
    """The config of a run from the values it recorded.

    Fields that did not exist when the run was made get their defaults, which is what it did.
    """
    config = default()
    config.update(values)
    return config


def options(section: ConfigDict | FrozenConfigDict, name: str) -> dict[str, Any]:
    """The options of a rule or penalty: what the section has under the name of its function."""
    own = section.get(name.rpartition(':')[2])
    return dict(own.items()) if isinstance(own, ConfigDict | FrozenConfigDict) else {}


CHOICES = {
    'connectivity': ('conv', 'lc', 'low_rank'),
    'model.stem': tuple(STEMS),
    'model.dtype': ('float32', 'bfloat16'),
    'model.init': ('independent', 'common'),
    'model.norm': ('shared', 'local', 'none'),
    'optimizer': ('adamw', 'sgd', 'beta_lasso'),
    'feedback': tuple(feedback.RULES),
    'sleep.pools': ('tiled', 'joined'),
    'sleep.border': ('include', 'exclude'),
}
LEAST = {
    'model.width': 1,
    'model.n_first_conv': 0,
    'model.init_noise': 0,
    'model.rank': 1,
    'momentum': 0,
    'lasso': 0,
    'beta': 0,
    'translations.padding': 0,
    'translations.repetitions': 1,
    'batch_size': 1,
    'epochs': 1,
    'log_every': 1,
    'evaluate_every': 1,
    'checkpoint_every': 0,
    'image_size': 1,
    'penalty.weight': 0,
    'sleep.every': 1,
    'sleep.until': 0,
    'sleep.exact.gamma': 0,
    'sleep.hebbian.gamma': 0,
    'sleep.hebbian.steps': 1,
    'sleep.hebbian.patterns_per_step': 1,
    'sleep.circuit.gamma': 0,
    'sleep.circuit.patterns_per_weight': 1,
    'sleep.circuit.steps_per_pattern': 1,
    'sleep.low_rank.rank': 1,
    'workers': 0,
    'validation': 0,
    'train_images': 0,
}


def check(config: ConfigDict) -> None:
    """UsageError if values are unknown or do not go together."""
    values = config.to_dict()

    def value_of(field):
        value = values
        for name in field.split('.'):
            value = value[name]
        return value

    for field, choices in CHOICES.items():
        if value_of(field) not in choices:
            raise UsageError(
                f'config.{field} is {value_of(field)!r}; it must be one of {", ".join(choices)}.'
            )
    for field, least in LEAST.items():
        if not value_of(field) >= least:  # NaN, too
            raise UsageError(f'config.{field} is {value_of(field)}; it must be {least} or more.')
    _check_model(config)
    _check_images(config)


def _check_model(config: ConfigDict) -> None:
    if not all(0 <= fraction <= 1 for fraction in config.drops_at):
        raise UsageError(
            f'config.drops_at is {tuple(config.drops_at)}; it must hold fractions of the training '
            'between 0 and 1, not epochs.'
        )
    try:
        re.compile(config.model.shared)
    except re.error as e:
        raise UsageError(
            f'config.model.shared is {config.model.shared!r}, which is not a valid regular '
            f'expression: {e}.'
        ) from None
    if config.momentum >= 1:
        raise UsageError(f'config.momentum is {config.momentum}; it must be below 1.')
    if config.model.init_noise and config.model.init == 'independent':
        raise UsageError(
            'config.model.init_noise has no meaning for independent kernels: set '
            'config.model.init=common, or leave it at 0.'
        )
    low_rank = config.connectivity == 'low_rank'
    shared = {'conv': 'convolutional', 'low_rank': 'low-rank'}.get(config.connectivity)
    if config.model.init == 'common' and shared:
        raise UsageError(
            f'a {shared} network starts with one kernel for all positions as it is: set '
            'config.connectivity=lc or config.model.init=independent.'
        )
    if shared and (config.model.norm == 'local' or (low_rank and config.model.norm == 'none')):
        raise UsageError(
            f'config.model.norm={config.model.norm} is not for a {shared} network: set '
            'config.connectivity=lc or config.model.norm=shared.'
        )
    if config.shard_kernels and shared:
        raise UsageError(
            f'a {shared} network has no local kernels to divide: set config.connectivity=lc or '
            'config.shard_kernels=False.'
        )
    if config.shard_kernels and config.feedback == 'alignment':
        raise UsageError(
            'config.feedback=alignment makes whole kernels in every step: set '
            'config.shard_kernels=False.'
        )
    if config.sleep.rule != 'none' and shared:
        raise UsageError(
            f'a {shared} network has nothing to share: set config.connectivity=lc or '
            'config.sleep.rule=none.'
        )
    if config.penalty.name != 'none' and shared:
        raise UsageError(
            f'a penalty is on local kernels, and a {shared} network has none: set '
            'config.connectivity=lc or config.penalty.name=none.'
        )


def _check_images(config: ConfigDict) -> None:
    dataset = Source(config.dataset, config.data_dir).spec
    translations = config.translations
    if config.batch_size % translations.repetitions:
        raise UsageError(
            f'config.batch_size {config.batch_size} must be a multiple of '
            f'config.translations.repetitions {translations.repetitions}.'
        )
    if translations.repetitions > 1 and translations.padding < 1:
        raise UsageError(
            'the copies of an image would all be the same: config.translations.repetitions > 1 '
            'needs config.translations.padding > 0.'
        )
    if len(config.mean) != len(config.std) or len(config.mean) not in (0, dataset.image_shape[2]):
        raise UsageError(
            'config.mean and config.std must both be empty, or have a value for each of the '
            f'{dataset.image_shape[2]} channels of {config.dataset}.'
        )
    if dataset.fits and config.image_size > min(dataset.common_shape[:2]):
        raise UsageError(
            f'config.image_size {config.image_size} is larger than the images of '
            f'{config.dataset}, {dataset.image_shape[:2]}.'
        )
