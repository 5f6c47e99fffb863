"""Values of config fields to try, as `--over` gives them, and all combinations of them."""

import ast
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from lcn_jax.errors import UsageError


def combinations(config: ConfigDict, texts: Sequence[str]) -> dict[str, ConfigDict]:
    """A config for each combination of values, by a name that can be that of a folder.

    texts: 'config.sleep.every=1,10' and so on; without any there is one combination, 'run'.

    Raises:
      UsageError: a text is something else, a value is of another type than its field, or two
        combinations are the same.
    """
    values: dict[str, list[Any]] = {}
    for text in texts:
        field, tried = _values(text, config)
        if field in values:
            raise UsageError(f'--over has config.{field} twice: give all of its values at once.')
        values[field] = tried
    found = {}
    for chosen in itertools.product(*values.values()):
        fields = dict(zip(values, chosen))
        name = _name(fields)
        if name in found:
            raise UsageError(f'--over has {name} twice: leave one out.')
        found[name] = _with_values(config, fields)
    return found


def _values(text: str, config: ConfigDict) -> tuple[str, list[Any]]:
    """'config.sleep.every=1,10' -> 'sleep.every', [1, 10].

    Commas in brackets are part of a value, as in config.model.stage_sizes=(1,1),(2,2).
    """
    name, _, values = text.partition('=')
    field = name.removeprefix('config.')
    if field == name or not values or field == 'seed':
        raise UsageError(
            f'--over={text} must be config.FIELD=VALUE,VALUE. --seeds is the number of seeds.'
        )
    is_text = isinstance(flatten_dict(config.to_dict(), sep='.').get(field), str)
    separate = re.split(r',(?![^(]*\))', values)
    return field, separate if is_text else [_literal(value) for value in separate]


def _literal(value: str) -> Any:
    """The number, flag or tuple that `value` is in Python, or `value` itself."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _with_values(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    changed = config.copy_and_resolve_references()
    for field, value in values.items():
        try:
            changed.update(unflatten_dict({field: value}, sep='.'))
        except TypeError as error:
            raise UsageError(f'--over config.{field}={value}: {error}') from error
    return changed


def _name(values: Mapping[str, Any]) -> str:
    """'every=10+learning_rate=0.001': the last names of fields, in full where they are the same."""
    last = Counter(field.rpartition('.')[2] for field in values)
    parts = []
    for field, value in values.items():
        short = field.rpartition('.')[2]
        parts.append(f'{short if last[short] == 1 else field}={value}'.replace(' ', ''))
    return re.sub('[^A-Za-z0-9_.=+-]', '_', '+'.join(parts)) or 'run'
