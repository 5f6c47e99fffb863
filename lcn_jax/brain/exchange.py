"""Activations in files, for programs that cannot import JAX."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lcn_jax.brain.features import extract
from lcn_jax.data.builders import encoded
from lcn_jax.errors import UsageError
from lcn_jax.files import Path, locate, replacing
from lcn_jax.trained.load import Trained


def write(
    path: Path, network: Trained, files: Mapping[str, bytes], layers: Sequence[str]
) -> dict[str, str]:
    """Writes an npz file with the activations of some layers for image files.

    It has `digest` (N,), the SHA-256 of each file in hexadecimal digits, which identifies an image
    whatever its name; and under the name of each layer float32 (N, C, H, W), or (N, ...) as
    `extract` returns it. Files that cannot be decoded are left out; returns {name: reason} of them.

    UsageError if there is no such layer, no file can be decoded, or nothing can be written.
    """
    images, digests, left_out = [], [], {}
    for name, file in files.items():
        try:
            images.append(encoded.decode(file, name))
            digests.append(hashlib.sha256(file).hexdigest())
        except UsageError as error:
            left_out[name] = str(error)
    if not images:
        raise UsageError(f'none of the images can be decoded: {next(iter(left_out.values()))}')
    arrays: dict[str, Any] = {'digest': np.array(digests), **extract(network, images, layers)}
    with replacing(locate(path)) as file:
        np.savez(file, **arrays)
    return left_out
