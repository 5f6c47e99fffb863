"""Which values of a config go together."""

from operator import attrgetter

from ml_collections import ConfigDict

from lcn_jax.data.sources import Source
from lcn_jax.errors import UsageError
from lcn_jax.networks import all_tnn

# What acts on local kernels, and its values where there are none.
WITHOUT_LOCAL_KERNELS = {
    'shard_kernels': (False,),
    'model.norm': ('shared', 'none', 'layer'),
    'model.init': ('independent',),
    'penalty.name': ('none',),
    'sleep.rule': ('none',),
}


def check(config: ConfigDict) -> None:
    """UsageError if values that are in their ranges do not go together."""
    if config.connectivity != 'lc':
        _check_without_local_kernels(config)
    _check_network(config)
    if config.model.name == 'all_tnn':
        _check_all_tnn(config)
    elif config.model.norm == 'layer':
        raise UsageError('config.model.norm=layer needs config.model.name=all_tnn.')
    _check_images(config)


def _check_without_local_kernels(config: ConfigDict) -> None:
    connectivity = config.connectivity
    for field, allowed in WITHOUT_LOCAL_KERNELS.items():
        value = attrgetter(field)(config)
        if value not in allowed:
            raise UsageError(
                f'config.{field}={value} acts on local kernels, and with '
                f'config.connectivity={connectivity} there are none: set config.connectivity=lc or '
                f'config.{field}={allowed[0]}.'
            )
    if connectivity == 'low_rank' and config.model.norm == 'none':
        raise UsageError(
            'config.model.norm=none needs biases, which low-rank layers do not have: set '
            'config.connectivity=lc or config.model.norm=shared.'
        )


def _check_network(config: ConfigDict) -> None:
    if config.model.init_noise and config.model.init == 'independent':
        raise UsageError(
            'config.model.init_noise has no meaning for independent kernels: set '
            'config.model.init=common, or leave it at 0.'
        )
    if config.shard_kernels and config.feedback == 'alignment':
        raise UsageError(
            'config.feedback=alignment makes whole kernels in every step: set '
            'config.shard_kernels=False.'
        )
    if config.sleep.feedback and (config.feedback != 'alignment' or config.sleep.rule == 'none'):
        raise UsageError(
            'config.sleep.feedback is about feedback kernels that sleep: set '
            'config.feedback=alignment and a config.sleep.rule, or leave it at False.'
        )
    if config.sleep.equalise_momentum and config.sleep.share_moments:
        raise UsageError(
            'config.sleep.share_moments averages what config.sleep.equalise_momentum has made '
            'alike: set one of them to False.'
        )
    if config.shard_kernels and config.clip:
        raise UsageError(
            'config.clip needs the gradients of whole kernels: set config.clip=0 or '
            'config.shard_kernels=False.'
        )


def _check_all_tnn(config: ConfigDict) -> None:
    model = config.model
    if config.connectivity == 'low_rank' or model.norm not in all_tnn.NORMS:
        raise UsageError(
            'config.model.name=all_tnn needs config.connectivity lc or conv, and config.model.norm '
            f'one of {", ".join(all_tnn.NORMS)}.'
        )
    counts = [len(field) for field in (model.features, model.kernel_sizes, model.strides)]
    if len(set(counts)) > 1 or 0 in counts or max(model.pooled, default=0) > counts[0]:
        raise UsageError(
            'config.model.features, kernel_sizes and strides must have a number for each layer, '
            f'and there are {", ".join(map(str, counts))}; config.model.pooled '
            f'{tuple(model.pooled)} are numbers of layers, from 1.'
        )
    sizes = all_tnn.sizes(config.image_size, model.kernel_sizes, model.strides, model.pooled)
    if min(sizes) < 1:
        raise UsageError(
            f'config.image_size={config.image_size} leaves no position behind layer '
            f'{[size > 0 for size in sizes].index(False) + 1} of the All-TNN: make the images '
            'larger, or config.model.kernel_sizes, strides or pooled smaller.'
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
            f'{config.dataset}, {dataset.image_shape[:2]}: set it to '
            f'{min(dataset.common_shape[:2])} or less.'
        )
