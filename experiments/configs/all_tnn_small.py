"""An All-TNN for CIFAR-10 that trains on a CPU: six local layers on images of 32 pixels.

    python -m experiments.train --config=all_tnn_small:lc --config.data_dir=DIR \\
        --workdir=runs/all_tnn_small

The first layer has stride 1, and the pool after the third is left out: else nothing would be left
for the sixth. Layers have half as many rows and columns of features as the published ones, or less.
"""

from experiments.configs import all_tnn


def get_config(kind: str = 'lc'):
    config = all_tnn.get_config(kind)
    config.dataset, config.image_size = 'cifar10', 32
    config.model.features = (16, 25, 25, 36, 36, 400)
    config.model.kernel_sizes = (3, 3, 3, 3, 3, 3)
    config.model.strides = (1, 1, 1, 1, 1, 1)
    config.model.pooled = (1, 5)
    config.batch_size, config.epochs = 100, 10
    return config
