"""A network in one file: its config and its weights in float16.

The file is an npz archive with the arrays of the variables under their paths, 'params/logits/bias',
and an entry 'network', JSON with the step and the config.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from lcn_jax.errors import UsageError
from lcn_jax.files import Path, locate, make_folder, reading, writing
from lcn_jax.training import config as configs


class Stored(NamedTuple):
    """What a file holds; the arrays of the variables are float32."""

    config: ConfigDict
    step: int
    variables: Mapping[str, Any]


def write(path: Path, config: ConfigDict, step: int, variables: Mapping[str, Any]) -> None:
    """Replaces the file at `path`; UsageError if it cannot be written."""
    arrays = flatten_dict(dict(variables), sep='/')
    text = json.dumps({'step': step, 'config': json.loads(config.to_json_best_effort())})
    content = io.BytesIO()
    small: dict[str, Any] = {name: np.asarray(a, np.float16) for name, a in arrays.items()}
    np.savez_compressed(content, **small, network=np.array(text))
    make_folder(locate(path).parent)
    with writing(path):
        locate(path).write_bytes(content.getvalue())


def read(path: Path) -> Stored:
    """UsageError if there is no such file, or it holds no network."""
    with reading(path):
        content = locate(path).read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
        known = json.loads(arrays.pop('network').item())
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f'{path} holds no network ({error}): save it again.') from error
    variables = {name: array.astype(np.float32) for name, array in arrays.items()}
    config = configs.complete(known['config'])
    return Stored(config, known['step'], unflatten_dict(variables, sep='/'))
