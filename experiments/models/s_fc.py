"""S-fc (Neyshabur, "Towards Learning Convolutions from Scratch", 2020) as a local network.

Used with --config.model.name=experiments.models.s_fc:s_fc.
"""

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from lcn_jax.layer.linen import LocalConv


class SFC(nn.Module):
    """A layer of neurons that see the whole image, two pixels apart, and two dense layers.

    The kernel is as large as the image and the padding is circular, so each neuron sees every pixel
    once, and a local field could emerge anywhere among its weights.
    """

    width: int
    image_size: int
    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:  # (N, H, W, C), normalised
        def rectified(x, name):
            norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=name)
            return nn.relu(norm(x))

        conv = LocalConv(
            self.width, (self.image_size,) * 2, strides=2, padding='CIRCULAR', use_bias=False,
            name='conv',
        )  # fmt: skip
        x = rectified(conv(images), 'conv_norm')
        self.sow('intermediates', 'local', x)
        x = nn.Dense(24 * self.width, use_bias=False, name='hidden')(x.reshape(len(x), -1))
        x = rectified(x, 'hidden_norm')
        self.sow('intermediates', 'pooled', x)
        return nn.Dense(self.num_classes, name='logits')(x)


def s_fc(config: ConfigDict, num_classes: int) -> SFC:
    return SFC(config.model.width, config.image_size, num_classes)
