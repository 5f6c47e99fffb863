"""A config: the table of its fields, and what is made of it.

The files in `experiments/configs` only change values, as the command line does.
"""

import difflib
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict, FrozenConfigDict

from lcn_jax.errors import UsageError
from lcn_jax.layer.local_parameters import POOLS
from lcn_jax.learning import feedback, penalties
from lcn_jax.networks import all_tnn
from lcn_jax.networks.resnet import STEMS
from lcn_jax.sleep.pools import BORDERS
from lcn_jax.training import combinations
from lcn_jax.training.kinds import KINDS as KINDS
from lcn_jax.training.kinds import apply_kind as apply_kind
from lcn_jax.training.ranges import (
    BY_RULE,
    FLAG,
    PATTERN,
    STRING,
    TEXT,
    each,
    number,
    one_of,
    whole,
)

# 'field': (default, range),  # meaning. The command line sets a field with --config.field=value.
FIELDS = {
    # ---- The run.
    'seed': (0, whole(0, 2**32 - 1)),  # all random numbers follow from it
    'init_from': ('', STRING),  # WORKDIR or WORKDIR@step of a run with the weights to start from
    'freeze': ('', PATTERN),  # modules or parameters that do not learn: matches whole names
    'shard_kernels': (False, FLAG),  # divide local kernels among the devices, by position
    # ---- The data.
    'dataset': ('digits', TEXT),  # docs/data.md lists them
    'data_dir': ('~/tensorflow_datasets', TEXT),  # where prepared datasets are
    'validation': (0, whole(0)),  # training images held out to evaluate on, instead of the test set
    'train_images': (0, whole(0)),  # train on this many random images; 0: on all
    'image_size': (16, whole(1)),  # pixels; images are cropped to this
    'flip': (False, FLAG),  # mirror training images half of the time
    'mean': ((), each(number(0, 1))),  # of each channel, for pixels in [0, 1]; (): computed
    'std': ((), each(number(0, but=0))),  # as the mean
    'workers': (8, whole(0)),  # processes that decode images, of datasets too large for a device
    # ---- Translations.
    'translations.padding': (0, whole(0)),  # training crops move this far from the centre
    'translations.repetitions': (1, whole(1)),  # copies of an image in a batch, each moved
    # ---- The network.
    'connectivity': ('conv', one_of('conv', 'lc', 'low_rank')),  # docs/laboratory.md: low rank
    'model.name': ('resnet', TEXT),  # or all_tnn, or 'module:function' for your own: docs/models.md
    'model.stage_sizes': ((3, 3, 3), each(whole(1))),  # residual blocks in each stage
    'model.width': (16, whole(1)),  # channels of the first stage
    'model.stem': ('cifar', one_of(*STEMS)),  # the first convolution
    'model.n_first_conv': (0, whole(0)),  # this many convolutions, from the input on, stay shared
    'model.shared': ('', PATTERN),  # others that stay shared: matches their whole names
    'model.dtype': ('float32', one_of('float32', 'bfloat16')),  # to compute in; parameters: float32
    # BatchNorm; none: biases instead; layer: LayerNorm over the features of a position (all_tnn).
    'model.norm': ('shared', one_of('shared', 'local', 'none', 'layer')),
    'model.sync_batch_norm': (False, FLAG),  # batch statistics over all devices
    'model.init': ('independent', one_of('independent', 'common')),  # common: all start alike ...
    'model.init_noise': (0.0, number(0)),  # ... plus noise, as a fraction of their deviation
    'model.rank': (2, whole(1)),  # of connectivity low_rank: kernels that each layer mixes
    'model.features': (all_tnn.FEATURES, each(whole(1))),  # of all_tnn, a number for each layer ...
    'model.kernel_sizes': (all_tnn.KERNEL_SIZES, each(whole(1))),
    'model.strides': (all_tnn.STRIDES, each(whole(1))),
    'model.pooled': (all_tnn.POOLED, each(whole(1))),  # ... those with a max pool behind them
    'model.dropout': (0.0, number(0, 1, but=1)),  # ... and the rate of dropout behind each
    # ---- Training.
    'batch_size': (512, whole(1)),  # over all devices
    'epochs': (200, whole(1)),
    'learning_rate': (1e-3, number(0)),
    'drop': (0.25, number(0)),  # factor on the learning rate ...
    'drops_at': ((0.5, 0.75), each(number(0, 1), 'fractions of the training')),  # ... when
    'weight_decay': (1e-2, number(0)),
    'optimizer': ('adamw', one_of('adamw', 'adam', 'sgd', 'beta_lasso')),  # adam: of Keras, with L2
    'momentum': (0.9, number(0, 1, but=1)),  # adamw, adam: the decay of the first moment
    'clip': (0.0, number(0)),  # largest norm of the gradient by each parameter; 0: any
    'lasso': (1e-5, number(0)),  # of beta_lasso: strength of the L1 penalty on kernels ...
    'beta': (50.0, number(0)),  # ... and weights below beta × lasso become 0
    # ---- Errors of hidden layers.
    'feedback': ('backprop', one_of(*feedback.RULES)),  # lcn_jax/learning/feedback.py
    # ---- Pools: the neurons of a layer that share.
    'pools.kind': ('tiled', one_of(*POOLS)),  # joined: all positions are one pool
    'pools.border': ('include', one_of(*BORDERS)),  # exclude: not neurons that see the padding
    # sgd and beta_lasso multiply the gradients of local parameters by the size of their pool: then
    # a pool of equal weights moves as the shared weights of a convolution would.
    'times_pool_size': (True, FLAG),
    # ---- Penalty on local weights, added to the loss.
    'penalty.name': ('none', TEXT),  # lcn_jax/learning/penalties.py; or 'module:function'
    'penalty.weight': (1.0, number(0)),  # times the sum over layers
    'penalty.factors': ((), each(number(0))),  # of each local layer, in the order of names; (): 1
    'penalty.schedule': ('constant', one_of(*penalties.SCHEDULES)),  # share of the weight by time
    'penalty.smoothness.circular': (False, BY_RULE),  # opposite borders of the sheet are neighbours
    'penalty.smoothness.neighbours': (4, BY_RULE),  # or 8
    'penalty.smoothness.by_direction': (False, BY_RULE),  # mean of each direction's mean
    # ---- Sleep.
    'sleep.rule': ('none', TEXT),  # lcn_jax/sleep/rules.py; or 'module:function' for your own
    'sleep.every': (10, whole(1)),  # wake steps between sleeps
    'sleep.until': (0, whole(0)),  # no sleep after this epoch; 0: they go on to the end
    'sleep.share_moments': (False, FLAG),  # average the optimizer's moments of local parameters too
    'sleep.equalise_momentum': (False, FLAG),  # let the rule act on their momentum as on themselves
    'sleep.feedback': (False, FLAG),  # with feedback alignment: its kernels sleep, too
    'sleep.full_step': (False, FLAG),  # rescale a pool's common change to its members' changes
    # Options of each rule, under the name of its function.
    'sleep.exact.gamma': (1e-5, BY_RULE),
    'sleep.hebbian.gamma': (1e-5, BY_RULE),
    'sleep.hebbian.learning_rate': (0.1, BY_RULE),
    'sleep.hebbian.steps': (100, BY_RULE),
    'sleep.hebbian.patterns_per_step': (128, BY_RULE),
    'sleep.hebbian.momentum': (0.0, BY_RULE),
    'sleep.hebbian.split_patterns': (False, BY_RULE),  # over the devices, instead of all on each
    'sleep.circuit.gamma': (1e-3, BY_RULE),
    'sleep.circuit.learning_rate': (2.5e-4, BY_RULE),
    'sleep.circuit.patterns_per_weight': (4, BY_RULE),
    'sleep.circuit.steps_per_pattern': (150, BY_RULE),
    'sleep.circuit.momentum': (0.95, BY_RULE),
    'sleep.circuit.alpha': (10.0, BY_RULE),
    'sleep.circuit.tau': (30.0, BY_RULE),
    'sleep.circuit.b': (1.0, BY_RULE),
    'sleep.noise.patterns': (8, BY_RULE),
    'sleep.noise.rate': (0.5, BY_RULE),  # a fraction of the highest at which weights get alike
    'sleep.low_rank.rank': (2, BY_RULE),
    # ---- Records.
    'log_every': (100, whole(1)),  # steps
    'evaluate_every': (1, whole(1)),  # epochs; also at the end
    'checkpoint_every': (1000, whole(0)),  # steps; also the best and the last; 0: only the last
    'tensorboard': (False, FLAG),  # also write the records for TensorBoard
    'report': ('', STRING),  # 'module:function' for a logger of your own: docs/logging.md
    'profile': (0, whole(0)),  # steps to trace with jax.profiler, into WORKDIR/profile
}

# Section -> its field that names a function, whose options are in the section under that name.
CHOICES = {'sleep': 'rule', 'penalty': 'name'}

# Fields of earlier versions, and what they are called now.
RENAMED = {'sleep.pools': 'pools.kind', 'sleep.border': 'pools.border'}


def default() -> ConfigDict:
    """Every field with its default."""
    defaults = {field: value for field, (value, _) in FIELDS.items()}
    return ConfigDict(unflatten_dict(defaults, sep='.'))


def check(config: ConfigDict) -> None:
    """UsageError if a field is missing or out of its range, or fields do not go together."""
    values = flatten_dict(config.to_dict(), sep='.')
    check_names(config)
    for field, (_, allowed) in FIELDS.items():
        if field not in values:
            raise UsageError(
                f'config.{field} is missing: start from lcn_jax.training.config.default(), and set '
                'single fields instead of a whole section.'
            )
        if not allowed.contains(values[field]):
            raise UsageError(f'config.{field} is {values[field]!r}; it must be {allowed.words}.')
    combinations.check(config)


def check_names(config: ConfigDict) -> None:
    """UsageError if a field of `config` has another name now, or does not exist.

    Options of the rule and the penalty that are chosen are under the names of their functions, and
    a model of the user's own may have any fields in `config.model`.
    """
    values = flatten_dict(config.to_dict(), sep='.')
    chosen = {section: values.get(f'{section}.{name}', '') for section, name in CHOICES.items()}
    known = [f'{section}.{_function(name)}.' for section, name in chosen.items()]
    known += ['model.'] if ':' in str(values.get('model.name')) else []
    for field in values:
        if field in RENAMED:
            raise UsageError(f'config.{field} is now config.{RENAMED[field]}: change its name.')
        if field not in FIELDS and not field.startswith(tuple(known)):
            section, *close = (
                field.partition('.')[0],
                *difflib.get_close_matches(field, FIELDS, 1, 0.9),
            )
            if close:
                remedy = f'did you mean config.{close[0]}?'
            elif section in CHOICES:
                remedy = f'config.{section}.{CHOICES[section]} is {chosen[section]!r}.'
            else:
                remedy = 'lcn_jax/training/config.py has them all.'
            raise UsageError(f'there is no field config.{field}: {remedy}')


def complete(values: dict[str, Any]) -> ConfigDict:
    """The config of a run from the values it recorded.

    Fields get the names that they have now, and those that did not exist when the run was made get
    their defaults, which is what it did.
    """
    named = {RENAMED.get(name, name): v for name, v in flatten_dict(values, sep='.').items()}
    config = default()
    config.update(unflatten_dict(named, sep='.'))
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


def options(section: ConfigDict | FrozenConfigDict, name: str) -> dict[str, Any]:
    """The options of a rule or penalty: what the section has under the name of its function."""
    own = section.get(_function(name))
    return dict(own.items()) if isinstance(own, ConfigDict | FrozenConfigDict) else {}


def _function(name: Any) -> str:
    """The function of 'module:function', or the name of one of this library's."""
    return str(name).rpartition(':')[2]
