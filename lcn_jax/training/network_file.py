"""A network in one file: its config and its weights in float16.

The file is an npz archive with the arrays of the variables under their paths, 'params/logits/bias',
and an entry 'network', JSON with the step and the config.

Some come with the package, as lcn_jax/pretrained/DATASET/NAME.npz. Beside each is its card,
NAME.json: how good it is, and how `experiments.pretrain` trained it.
"""

import io
import json
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from lcn_jax.errors import UsageError
from lcn_jax.files import Path, locate, make_folder, reading, write_arrays
from lcn_jax.training import config as configs

PRETRAINED = pathlib.Path(__file__).parents[1] / 'pretrained'


class Stored(NamedTuple):
    """What a file holds; the arrays of the variables are float32."""

    config: ConfigDict
    step: int
    variables: Mapping[str, Any]


def write(path: Path, config: ConfigDict, step: int, variables: Mapping[str, Any]) -> None:
    """Replaces the file at `path`; UsageError if it cannot be written, or float16 is too small."""
    arrays = flatten_dict(dict(variables), sep='/')
    text = json.dumps({'step': step, 'config': json.loads(config.to_json_best_effort())})
    with np.errstate(over='ignore'):
        small = {name: np.asarray(a, np.float16) for name, a in arrays.items()}
    for name, array in small.items():
        if not np.isfinite(array).all():
            raise UsageError(f'{name} has numbers that float16 cannot hold: {path} is not written.')
    make_folder(locate(path).parent)
    write_arrays(locate(path), small | {'network': np.array(text)})


def read(path: Path) -> Stored:
    """UsageError if there is no such file, or it holds no network."""
    with reading(path):
        content = locate(path).read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
        known = json.loads(arrays.pop('network').item())
        config, step = known['config'], known['step']
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f'{path} holds no network ({error}): save it again.') from error
    variables = {name: array.astype(np.float32) for name, array in arrays.items()}
    return Stored(configs.complete(config), step, unflatten_dict(variables, sep='/'))


def find(name: str) -> str:
    """The file of a pretrained network, 'DATASET/NAME'; what exists at a path `name` comes first.

    UsageError, which lists the networks, if there is neither.
    """
    with reading(name):
        if locate(name).exists():
            return name
    if name not in pretrained():
        raise UsageError(
            f'{name} holds no run: there is no such folder or file, nor is it one of the networks '
            f'that come with lcn_jax: {", ".join(pretrained())}.'
        )
    return str(PRETRAINED / f'{name}.npz')


def pretrained() -> list[str]:
    """The names of the networks that come with the package, 'DATASET/NAME'."""
    return sorted(f'{path.parent.name}/{path.stem}' for path in PRETRAINED.glob('*/*.npz'))
