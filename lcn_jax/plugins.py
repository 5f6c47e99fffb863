"""Functions and classes of the user's own, named in a config as 'module:attribute'."""

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lcn_jax.errors import UsageError


def load(name: str, kind: str, known: Iterable[str]) -> Any:
    """The attribute that `name`, 'package.module:attribute', stands for.

    An exception of the module itself passes through.

    Raises:
      UsageError: there is no such module or attribute. The message says which `kind` of thing it
        should be, and the names that are `known` and need no module.
    """
    module, _, attribute = name.partition(':')
    reason = 'it names no module and attribute'
    if module and attribute:
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as e:
            if not f'{module}.'.startswith(f'{e.name}.'):  # another one, which the module imports
                raise
            reason = str(e)
        else:
            if hasattr(found, attribute):
                return getattr(found, attribute)
            reason = f'{module} has no {attribute}'
    raise UsageError(
        f'unknown {kind} {name!r} ({reason}); known: {", ".join(known)}, or '
        f"'module:name' for a {kind} of your own."
    )


def check_options(
    function: Callable, arguments: int, options: Mapping[str, Any], what: str
) -> None:
    """UsageError if a function, told as `what`, does not take these besides its first arguments."""
    try:
        inspect.signature(function).bind(*[None] * arguments, **options)
    except TypeError as e:
        raise UsageError(f'{what} cannot take options {sorted(options)}: {e}.') from None
