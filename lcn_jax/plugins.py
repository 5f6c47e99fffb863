"""Functions and classes of the user's own, named in a config as 'module:attribute'."""

import contextlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
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
        taken = f'options {sorted(options)}' if options else f'{arguments} arguments'
        raise UsageError(f'{what} cannot take {taken}: {e}.') from None


@contextlib.contextmanager
def usage_errors(section: str, name: str) -> Iterator[None]:
    """Turns errors of the rule or penalty `name` of a config's section into one line.

    It begins with the section that has the options, such as 'config.sleep.hebbian'. A ValueError
    means bad input. A function of the user's own may raise anything: the line says where in the
    file of its module. Other exceptions are bugs of this library and pass through.

    Raises:
      UsageError: with the original exception as its cause.
    """
    try:
        yield
    except Exception as e:
        module, _, function = name.rpartition(':')
        place = _place(e, module)
        if not place and not isinstance(e, ValueError):
            raise
        kind = '' if isinstance(e, ValueError) else f'{type(e).__name__}: '
        reason = str(e).partition('\n')[0]
        raise UsageError(f'{section}.{function}: {kind}{reason}{place}') from e


def _place(error: Exception, module: str) -> str:
    """' (FILE:LINE)' of the innermost frame in the file of a module, or '' if there is none."""
    file = getattr(sys.modules.get(module), '__file__', None)
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f' ({file}:{lines[-1]})' if lines else ''
