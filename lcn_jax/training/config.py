"""What an experiment is made of: every field with its default, the kinds, and what cannot work.

The kinds of network are points on three axes: connectivity, translations, sleep.
"""

import re

import ml_collections
from ml_collections import ConfigDict

from lcn_jax.data import sources
from lcn_jax.errors import UsageError
from lcn_jax.resnet import STEMS

KINDS = {
    'conv': {},
    'lc': {'connectivity': 'lc'},
    'lc_translations': {'connectivity': 'lc', 'translations.repetitions': 4},
    'lc_hebbian': {'connectivity': 'lc', 'sleep.rule': 'hebbian'},
    'lc_mean': {'connectivity': 'lc', 'sleep.rule': 'mean'},
    'lc_exact': {'connectivity': 'lc', 'sleep.rule': 'exact'},
    'lc_circuit': {'connectivity': 'lc', 'sleep.rule': 'circuit'},
}


def default() -> ConfigDict:
    """Every field there is. The files in `experiments/configs` change values, never add fields."""
    config = ConfigDict()
    config.seed = 0

    config.dataset = 'digits'
    config.data_dir = '~/tensorflow_datasets'
    config.validation = 0  # training images held out, to evaluate on instead of the test images
    config.train_images = 0  # random ones to train on; 0: all
    config.image_size = 16  # pixels; images are cropped to this
    config.flip = False  # mirror training images half of the time
    config.mean = ()  # of each channel's training pixels in [0, 1]; () computes it
    config.std = ()
    config.workers = 8  # processes that decode images, for datasets that do not fit on the device
    config.translations = ConfigDict()
    config.translations.padding = 0  # training crops move this far from the centre
    config.translations.repetitions = 1  # independently moved copies of an image in a batch

    config.connectivity = 'conv'  # or 'lc'
    config.model = ConfigDict()
    config.model.stage_sizes = (3, 3, 3)  # residual blocks
    config.model.width = 16  # channels of the first stage
    config.model.stem = 'cifar'  # or 'strided' or 'imagenet'
    config.model.n_first_conv = 0  # convolutions that stay shared, from the input on
    config.model.shared = ''  # regular expression of the names of others that stay shared
    config.model.dtype = 'float32'  # of the computation; parameters are float32
    config.model.sync_batch_norm = False  # batch statistics over all devices

    config.batch_size = 512  # over all devices
    config.epochs = 200
    config.learning_rate = 1e-3
    config.drop = 0.25  # factor on the learning rate ...
    config.drops_at = (0.5, 0.75)  # ... at these fractions of training
    config.weight_decay = 1e-2

    config.sleep = ConfigDict()
    config.sleep.rule = 'none'  # or a rule of lcn_jax.sleep, or 'module:function' for one's own
    config.sleep.every = 10  # wake steps between sleeps
    config.sleep.border = 'include'  # or 'exclude' neurons that see the padding from all sharing
    config.sleep.share_moments = False  # pool the optimizer's moments of the kernels, too
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

    config.log_every = 100  # steps
    config.evaluate_every = 1  # epochs; also at the end
    config.checkpoint_every = 1000  # steps; also the best, and at the end; 0: only at the end
    config.tensorboard = False  # write the records for TensorBoard, too
    return config


def apply_kind(config: ConfigDict, kind: str) -> ConfigDict:
    """Moves `config` to a kind's point on the axes; UsageError lists the known kinds."""
    if kind not in KINDS:
        raise UsageError(f'unknown kind {kind!r}; known: {", ".join(KINDS)}.')
    config.update_from_flattened_dict(KINDS[kind])
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """UsageError for values that are not known or do not go together."""
    dataset = sources.spec(config.dataset)
    translations = config.translations
    for field, value, known in (
        ('connectivity', config.connectivity, ('conv', 'lc')),
        ('model.stem', config.model.stem, STEMS),
        ('model.dtype', config.model.dtype, ('float32', 'bfloat16')),
        ('sleep.border', config.sleep.border, ('include', 'exclude')),
    ):
        if value not in known:
            raise UsageError(f'config.{field} is {value!r}; it must be one of {", ".join(known)}.')
    if not all(0 <= fraction <= 1 for fraction in config.drops_at):
        raise UsageError(
            f'config.drops_at is {tuple(config.drops_at)}; it must hold fractions of the training '
            'between 0 and 1, not epochs.'
        )
    for field, value, least in (
        ('model.width', config.model.width, 1),
        ('model.n_first_conv', config.model.n_first_conv, 0),
        ('translations.padding', translations.padding, 0),
        ('batch_size', config.batch_size, 1),
        ('epochs', config.epochs, 1),
        ('log_every', config.log_every, 1),
        ('evaluate_every', config.evaluate_every, 1),
        ('checkpoint_every', config.checkpoint_every, 0),
        ('image_size', config.image_size, 1),
        ('sleep.every', config.sleep.every, 1),
    ):
        if value < least:
            raise UsageError(f'config.{field} is {value}; it must be {least} or more.')
    try:
        re.compile(config.model.shared)
    except re.error as e:
        raise UsageError(
            f'config.model.shared is {config.model.shared!r}, which is no regular expression: {e}.'
        ) from None
    if config.sleep.rule != 'none' and config.connectivity != 'lc':
        raise UsageError(
            'a convolutional network has nothing to share: set config.connectivity=lc or '
            'config.sleep.rule=none.'
        )
    if translations.repetitions < 1 or config.batch_size % translations.repetitions:
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
    if dataset.fits and config.image_size > min(dataset.image_shape[:2]):
        raise UsageError(
            f'config.image_size {config.image_size} is larger than the images of '
            f'{config.dataset}, {dataset.image_shape[:2]}.'
        )
