"""Files of features, for programs that cannot have JAX beside them."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from lcn_jax.brain import stimuli
from lcn_jax.brain.features import Network, extract


def write(path: str, network: Network, files: Mapping[str, bytes], layers: Sequence[str]) -> None:
    """Writes an npz file with what the layers respond to image files.

    It has `digest` (N,), the SHA-256 of each file in hexadecimal digits, for names change and
    images do not; and under the name of each layer float32 (N, C, H, W) or (N, C).

    Raises:
      ValueError: there is no such layer.
      UsageError: a file is no whole image.
    """
    images = [stimuli.decode(file, name) for name, file in files.items()]
    digests = [hashlib.sha256(file).hexdigest() for file in files.values()]
    np.savez(path, digest=np.array(digests), **extract(network, images, layers))
