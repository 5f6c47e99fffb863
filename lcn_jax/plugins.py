"""Functions and classes of the user's own, named in a config as 'module:attribute'."""

import importlib
from collections.abc import Iterable
from typing import Any

from lcn_jax.errors import UsageError


def load(name: str, kind: str, known: Iterable[str]) -> Any:
    """The attribute that `name`, 'package.module:attribute', stands for.

    Raises:
      UsageError: there is no such module or attribute. The message says which `kind` of thing it
        should be, and the names that are `known` and need no module.
    """
    module, _, attribute = name.partition(':')
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError, ValueError) as e:  # ValueError: an empty name
        raise UsageError(
            f'unknown {kind} {name!r} ({e}); known: {", ".join(known)}, or '
            f"'module:name' for a {kind} of your own."
        ) from e
