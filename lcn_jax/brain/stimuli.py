"""Image files in a folder or a zip."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from lcn_jax.brain.assembly import Assembly
from lcn_jax.data.builders import archives, encoded
from lcn_jax.errors import UsageError


def read(source: str) -> dict[str, bytes]:
    """Path inside a folder or zip -> image file, in natural order: 2.png before 10.png.

    UsageError if `source` is missing, is corrupt, or has no images.
    """

    def natural(name):
        return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', name)]

    with archives.files(Path(source)) as files:
        names = sorted(filter(archives.is_image, files), key=natural)
        if not names:
            raise UsageError(f'there are no images in {source}.')
        return {name: files[name]() for name in names}


def choose(files: dict[str, bytes], ids: Sequence[str] | np.ndarray) -> dict[str, bytes]:
    """The files with these names, in the order of `ids`; folders and suffixes may be left out.

    UsageError if a name fits no file, or several, or two names fit one.
    """
    by_id = {}
    for path in files:
        parts = PurePosixPath(path)
        for known in {path, parts.name, parts.stem}:
            by_id.setdefault(known, []).append(path)
    chosen = {}
    for wanted in map(str, ids):
        found = by_id.get(wanted, [])
        if len(found) != 1:
            raise UsageError(f'there are {len(found)} images called {wanted}; there must be one.')
        if found[0] in chosen:
            raise UsageError(
                f'the responses name the image {found[0]} twice, the second time as {wanted}: '
                'leave one of the two out, or give them as repetitions.'
            )
        chosen[found[0]] = files[found[0]]
    return chosen


def shown(source: str, neurons: Assembly) -> list[np.ndarray]:
    """The images shown to the neurons, in the order of the responses: (H, W, 3) uint8, any sizes.

    UsageError as `read` and `choose`, or if an image cannot be decoded, or the number of images is
    not that of the responses.
    """
    files = read(source)
    if neurons.stimuli is not None:
        files = choose(files, neurons.stimuli)
    if len(files) != len(neurons.responses):
        raise UsageError(
            f'there are {len(files)} images in {source}, but responses to '
            f'{len(neurons.responses)}; if these are neurons: --axes=neuroids,stimuli,repetitions.'
        )
    return [encoded.decode(file, name) for name, file in files.items()]
