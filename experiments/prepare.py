"""Prepares a dataset for training, once.

    python -m experiments.prepare --dataset=NAME --data_dir=DIR --source=PATH

    NAME             PATH
    digits           (leave --source out)
    cifar10          cifar-10-binary.tar.gz or cifar-10-python.tar.gz
    cifar100         cifar-100-binary.tar.gz or cifar-100-python.tar.gz
    tiny_imagenet    tiny-imagenet-200.zip
    imagenet2012     a folder with ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, or with
                     train/WNID/*.JPEG and val/*.JPEG or val/WNID/*.JPEG somewhere in it
    a new name       your own images: a folder with {train,val,test}/CLASS/*.png or CLASS/*.png
    module:Builder   whatever your tfds builder takes as `source`
    a name of tfds   (leave --source out; needs tensorflow: `pip install 'lcn_jax[prepare]'`)

Instead of an archive, PATH can be the folder that it unpacks to, and instead of a folder, a zip or
tar archive of it. Files such as .DS_Store and Thumbs.db are ignored. An attempt that is stopped, by
Ctrl-C or SIGTERM, leaves nothing behind.

Then train with `--config.dataset=NAME --config.data_dir=DIR`. docs/data.md says more.
"""

import signal
import sys

from absl import flags

from experiments.common import cli
from lcn_jax.data.prepare import prepare
from lcn_jax.data.specs import SPECS

DATASET = flags.DEFINE_string(
    'dataset',
    None,
    f"One of {', '.join(SPECS)}; a new name, for your own images; 'module:Builder'; or the name of "
    'an image classification dataset of tfds.',
    required=True,
)
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Folder to write to.', required=True)
SOURCE = flags.DEFINE_string('source', None, 'Folder or archive to prepare the dataset from.')
VAL_LABELS = flags.DEFINE_string(
    'val_labels',
    None,
    'For ImageNet with validation images other than the official ones: a file with the wnid of '
    'each on a line, in the order of the image files, or a table like LOC_val_solution.csv.',
)


def main(argv):
    del argv
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    counts = prepare(DATASET.value, DATA_DIR.value, SOURCE.value, VAL_LABELS.value)
    sizes = ', '.join(f'{count:,} {split}' for split, count in counts.items())
    print(f'{DATASET.value} is in {DATA_DIR.value}: {sizes}')
    if not {'validation', 'test'} & set(counts):
        print('All images are for training. Set config.validation to evaluate on some of them.')


if __name__ == '__main__':
    cli.run(main)
