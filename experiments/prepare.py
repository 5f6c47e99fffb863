"""Prepares a dataset for training, once.

    python -m experiments.prepare --dataset=NAME --data_dir=DIR --source=PATH

    NAME             PATH
    digits           (leave it out)
    cifar10          cifar-10-binary.tar.gz or the folder it unpacks to
    cifar100         cifar-100-binary.tar.gz or the folder it unpacks to
    tiny_imagenet    tiny-imagenet-200.zip or the folder it unpacks to
    imagenet2012     the folder of ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar

Then train with `--config.data_dir=DIR`. Without `--source` CIFAR is downloaded, which needs
tensorflow: `pip install 'lcn_jax[prepare]'`.
"""

from absl import flags

from experiments.common import cli
from lcn_jax.data import sources
from lcn_jax.data.prepare import prepare

DATASET = flags.DEFINE_string('dataset', None, f'One of {", ".join(sources.SPECS)}.')
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Folder to write to.')
SOURCE = flags.DEFINE_string('source', None, 'The official archive or folder.')
VAL_LABELS = flags.DEFINE_string(
    'val_labels',
    None,
    'For ImageNet with other validation images than the official ones: a file with the wnid of '
    'each, one a line, in the order of the image files.',
)
flags.mark_flags_as_required(['dataset', 'data_dir'])


def main(argv):
    del argv
    counts = prepare(DATASET.value, DATA_DIR.value, SOURCE.value, VAL_LABELS.value)
    sizes = ', '.join(f'{count:,} {split}' for split, count in counts.items())
    print(f'{DATASET.value} is in {DATA_DIR.value}: {sizes}')


if __name__ == '__main__':
    cli.run(main)
