"""Dataset metadata: classes, sizes, splits, and how a dataset is prepared."""

import dataclasses
from typing import Any

import numpy as np

from lcn_jax import plugins
from lcn_jax.data.builders import encoded
from lcn_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Spec:
    """What the config, the model and the reader need to know of a dataset.

    image_shape: (H, W, C); H and W are None if images differ in size. evaluation: the split that is
    kept for the end, None if there is no such split. image, label: names of the features.

    How a dataset in SPECS is prepared: builder is the 'module:Class' of a tfds builder, which takes
    `data_dir` and, if they are given, `source` and `options`. source says what it is prepared from;
    None if it needs nothing, and is prepared on first use. downloads: with tensorflow, it does
    without `source`.
    """

    num_classes: int
    image_shape: tuple[int | None, int | None, int]
    evaluation: str | None
    image: str = 'image'
    label: str = 'label'
    builder: str | None = None
    source: str | None = None
    downloads: bool = False
    options: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether all images have one size: then they stay on the devices; others are streamed."""
        return None not in self.image_shape

    @property
    def common_shape(self) -> tuple[int, int, int]:
        """The (H, W, C) of every image; ValueError if they differ in size."""
        height, width, channels = self.image_shape
        if height is None or width is None:
            raise ValueError('the images differ in size')
        return height, width, channels


SPECS = {
    'digits': Spec(10, (16, 16, 1), 'test', builder='lcn_jax.data.builders.digits:Digits'),
    **{
        f'cifar{classes}': Spec(
            classes,
            (32, 32, 3),
            'test',
            builder=f'lcn_jax.data.builders.cifar:Cifar{classes}',
            source=(
                f'cifar-{classes}-binary.tar.gz, cifar-{classes}-python.tar.gz or the folder they '
                'unpack to; downloaded if tensorflow is installed'
            ),
            downloads=True,
        )
        for classes in (10, 100)
    },
    'tiny_imagenet': Spec(
        200,
        (64, 64, 3),
        'validation',
        builder='lcn_jax.data.builders.tiny_imagenet:TinyImagenet',
        source='tiny-imagenet-200.zip or the folder it unpacks to',
    ),
    'imagenet2012': Spec(
        1000,
        (None, None, 3),
        'validation',
        builder='lcn_jax.data.builders.imagenet:Imagenet2012',
        source=(
            'the folder of ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, or a folder or zip '
            'file with train/WNID/*.JPEG and val/ in it, as from Kaggle'
        ),
        options=('val_labels',),
    ),
}


def is_plugin(name: str) -> bool:
    """Whether it is 'module:Builder'; after a colon, tfds itself has versions: 'mnist:3.0.1'."""
    return name.partition(':')[2].isidentifier()


def builder_class(name: str) -> type:
    """The tfds builder of a dataset in SPECS, of 'module:Class', or of a name that tfds knows.

    UsageError if there is none.
    """
    import tensorflow_datasets as tfds

    path = (SPECS[name].builder if name in SPECS else None) or name
    if is_plugin(path):
        found = plugins.load(path, 'dataset', SPECS)
    else:
        try:
            found = tfds.builder_cls(path.partition(':')[0])
        except ValueError:  # not found
            raise UsageError(
                f'unknown dataset {name!r}; known: {", ".join(SPECS)}, the image classification '
                "datasets of tfds, or 'module:Builder' for one of your own."
            ) from None
    if not (isinstance(found, type) and issubclass(found, tfds.core.DatasetBuilder)):
        raise UsageError(f'{name} is not a class of tfds.core.DatasetBuilder.')
    return found


def describe(builder: Any) -> Spec:
    """The `Spec` of a prepared dataset; UsageError unless it has images with a class each."""
    import tensorflow_datasets as tfds

    info = builder.info
    image, label, *_ = info.supervised_keys or ('image', 'label')  # perhaps a weight, too
    features = dict(info.features.items()) if hasattr(info.features, 'items') else {}
    images, labels = features.get(image), features.get(label)
    if not (
        isinstance(images, tfds.features.Image) and isinstance(labels, tfds.features.ClassLabel)
    ):
        raise UsageError(
            f'{builder.name} is not a dataset of images with a class each: its supervised_keys '
            f'are {info.supervised_keys} and its features {", ".join(features)}.'
        )
    channels = images.shape[2]
    if images.np_dtype != np.uint8 or channels not in encoded.MODES:
        raise UsageError(
            f'images of {builder.name} are {np.dtype(images.np_dtype)} with {channels} channels; '
            f'they must be uint8 with {" or ".join(map(str, encoded.MODES))}.'
        )
    evaluation = next((split for split in ('test', 'validation') if split in info.splits), None)
    return Spec(labels.num_classes, tuple(images.shape), evaluation, image, label)
