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

    UsageError if there is no such module or attribute; the message says what `kind` of thing it
    should be, and which names are `known` without a module. The module's own errors pass through.
    """
    module, _, attribute = name.partition(':')
    reason = 'it names no module and attribute'
    if module and attribute and not module.startswith('.'):
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not f'{module}.'.startswith(f'{error.name}.'):  # a module that this one imports
                raise
            reason = str(error)
        else:
            if hasattr(found, attribute):
                return getattr(found, attribute)
            reason = f'{module} has no {attribute}'
    choices = ', '.join([*known, f"or 'module:name' for a {kind} of your own"])
    raise UsageError(f'unknown {kind} {name!r} ({reason}); known: {choices}.')


def check_options(function: Callable, arguments: int, options: Mapping, what: str) -> None:
    """UsageError, about `what`, if a function takes no such options after its first arguments."""
    try:
        inspect.signature(function).bind(*[None] * arguments, **options)
    except TypeError as error:
        taken = f'options {sorted(options)}' if options else f'{arguments} arguments'
        raise UsageError(f'{what} cannot take {taken}: {error}.') from None


@contextlib.contextmanager
def usage_errors(section: str, name: str) -> Iterator[None]:
    """Turns errors of the rule or penalty `name` of a config's section into a one-line UsageError.

    It begins with the section that has the options, such as 'config.sleep.hebbian'. A ValueError
    means bad input. A function of the user's own may raise anything: the line says where in the
    file of its module. Other exceptions are bugs of this library and pass through.
    """
    try:
        yield
    except Exception as error:
        module, _, function = name.rpartition(':')
        file = getattr(sys.modules.get(module), '__file__', None)
        stack = traceback.extract_tb(error.__traceback__)
        places = [f' ({file}:{frame.lineno})' for frame in stack if frame.filename == file]
        bad_input = isinstance(error, ValueError)
        if not (places or bad_input):
            raise
        kind = '' if bad_input else f'{type(error).__name__}: '
        reason = kind + str(error).partition('\n')[0] + ''.join(places[-1:])
        raise UsageError(f'{section}.{function}: {reason}') from error
