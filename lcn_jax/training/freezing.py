"""Parameters that do not learn: those that `config.freeze` names.

A pattern matches a parameter if it matches its whole path, 'stem_conv/kernel', or that of a module
which it is in, 'stem_conv'.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import optax
from flax.traverse_util import unflatten_dict

from lcn_jax.errors import UsageError
from lcn_jax.layer.local_parameters import Path, arrays_by_path, by_path, name_of, names


def is_frozen(pattern: str, path: Path) -> bool:
    """Whether the pattern matches the parameter at this path; '' matches none."""
    return any(re.fullmatch(pattern, name_of(path[: n + 1])) for n in range(len(path)))


def plastic(pattern: str, grids: Mapping) -> dict[str, Any]:
    """The local parameters that are not frozen."""
    learn = {path: local for path, local in by_path(grids).items() if not is_frozen(pattern, path)}
    return unflatten_dict(learn)


def optimizer(inner: optax.GradientTransformation, pattern: str) -> optax.GradientTransformation:
    """`inner` for the parameters that are not frozen; it has no moments of the others."""
    if not pattern:
        return inner

    def mask(frozen, tree):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: is_frozen(pattern, names(path)) == frozen, tree
        )

    return optax.chain(
        optax.masked(inner, partial(mask, False)),
        optax.masked(optax.set_to_zero(), partial(mask, True)),
    )


def kept(pattern: str, new: Any, old: Any) -> Any:
    """The tree `new`, such as statistics of BatchNorm, with what is frozen as it was in `old`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, now, then: then if is_frozen(pattern, names(path)) else now, new, old
    )


def check(pattern: str, params: Any) -> None:
    """UsageError if a pattern freezes no parameter, or all of them."""
    if not pattern:
        return
    frozen = {path: is_frozen(pattern, path) for path in arrays_by_path(params)}
    if not any(frozen.values()):
        modules = ', '.join(dict.fromkeys(name_of(path[:-1]) for path in frozen))
        raise UsageError(
            f'config.freeze={pattern} does not match the whole name of any module or parameter; '
            f'modules are {modules}.'
        )
    if all(frozen.values()):
        raise UsageError(f'config.freeze={pattern} leaves no parameter that learns.')
