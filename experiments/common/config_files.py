"""Config files by their names: `--config=digits:conv` is experiments/configs/digits.py:conv."""

import pathlib
from collections.abc import Sequence

FOLDER = pathlib.Path(__file__).parent.parent / 'configs'


def found(argv: Sequence[str]) -> list[str]:
    """The command line with the path of a config file of the project in place of its name."""
    return [_found(argument, before) for before, argument in zip(('', *argv), argv)]


def _found(argument: str, before: str) -> str:
    flag = next((f for f in ('--config=', '-config=') if argument.startswith(f)), '')
    name, colon, kind = argument.removeprefix(flag).partition(':')
    path = FOLDER / f'{name}.py'
    is_config = flag or before in ('--config', '-config')
    return f'{flag}{path}{colon}{kind}' if is_config and name and path.is_file() else argument
