"""Config files by their names: `--config=digits:conv` is experiments/configs/digits.py:conv."""

import pathlib
from collections.abc import Sequence

FOLDER = pathlib.Path(__file__).parent.parent / 'configs'


def found(argv: Sequence[str]) -> list[str]:
    """The command line with the path of a config file of the project in place of its name."""
    return [_found(argument, before) for before, argument in zip(('', *argv), argv)]


def _found(argument: str, before: str) -> str:
    if before in ('-config', '--config'):
        return _path(argument)
    flag, equals, value = argument.partition('=')
    return f'{flag}={_path(value)}' if equals and flag in ('-config', '--config') else argument


def _path(value: str) -> str:
    name, colon, kind = value.partition(':')
    path = FOLDER / f'{name}.py'
    return f'{path}{colon}{kind}' if name and path.is_file() else value
