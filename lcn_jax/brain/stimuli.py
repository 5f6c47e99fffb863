"""Image files in a folder or a zip."""

import io
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from lcn_jax.brain.assembly import Assembly
from lcn_jax.data import archives
from lcn_jax.errors import UsageError

SUFFIXES = {'.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp'}


def read(source: str) -> dict[str, bytes]:
    """Path inside a folder or zip -> image file, in the order of the names: 2.png before 10.png.

    Raises:
      UsageError: `source` is not there, is corrupt, or has no images.
    """
    with archives.files(Path(source)) as files:
        names = [name for name in files if PurePosixPath(name).suffix.lower() in SUFFIXES]
        if not names:
            raise UsageError(f'there are no images in {source}.')
        return {name: files[name]() for name in sorted(names, key=_natural)}


def decode(file: bytes, name: str) -> np.ndarray:
    """(H, W, 3) uint8; UsageError, with the name, if it is no whole image."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file)) as image:
            return np.asarray(image.convert('RGB'))
    except (OSError, SyntaxError) as error:  # Pillow's broken PNGs are SyntaxErrors
        raise UsageError(f'{name} is not a whole image: {error}.') from error


def choose(files: dict[str, bytes], ids: Sequence[str]) -> dict[str, bytes]:
    """The files with these names, in their order; folders and endings may be left out.

    Raises:
      UsageError: there is no such file, or more than one.
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
        chosen[found[0]] = files[found[0]]
    return chosen


def shown(source: str, neurons: Assembly) -> list[np.ndarray]:
    """The images that neurons responded to, in their order: (H, W, 3) uint8 of any sizes.

    Raises:
      UsageError: as `read` and `decode`, or they are not as many as were responded to, or are not
        called so.
    """
    files = read(source)
    if neurons.stimuli is not None:
        files = choose(files, neurons.stimuli)
    if len(files) != len(neurons.responses):
        raise UsageError(
            f'there are {len(files)} images in {source}, but responses to '
            f'{len(neurons.responses)}; if those are neurons: --axes=neuroids,stimuli,repetitions'
        )
    return [decode(file, name) for name, file in files.items()]


def _natural(name: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', name)]
