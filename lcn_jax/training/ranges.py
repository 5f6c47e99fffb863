"""What the fields of a config may hold, and how an error says it."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Range:
    """Values that are allowed: `contains(value)`, and `words` for them."""

    contains: Callable[[Any], bool]
    words: str


def number(least: float, most: float = math.inf, but: float | None = None) -> Range:
    """Finite numbers from `least` to `most`, without `but`."""

    def contains(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            return False
        return bool(least <= value <= most and value < math.inf and value != but)

    words = f'a number, {least} or more' if most == math.inf else f'a number from {least} to {most}'
    return Range(contains, words if but is None else f'{words}, but not {but}')


def whole(least: int, most: float = math.inf) -> Range:
    """Integers from `least` to `most`."""
    of_numbers = number(least, most)
    return Range(
        lambda value: isinstance(value, int | np.integer) and of_numbers.contains(value),
        of_numbers.words.replace('a number', 'an integer'),
    )


def one_of(*choices: str) -> Range:
    return Range(lambda value: value in choices, f'one of {", ".join(choices)}')


def each(of_values: Range, values: str = 'values') -> Range:
    """Tuples of any length of values in a range."""
    return Range(
        lambda value: isinstance(value, tuple | list) and all(map(of_values.contains, value)),
        f'a tuple of {values}, each {of_values.words}',
    )


def _is_pattern(value):
    try:
        re.compile(value)
    except (re.error, TypeError):
        return False
    return True


FLAG = Range(lambda value: isinstance(value, bool), 'True or False')
STRING = Range(lambda value: isinstance(value, str), 'a string')
TEXT = Range(lambda value: isinstance(value, str) and value != '', 'a string, and not empty')
PATTERN = Range(_is_pattern, 'a regular expression')
BY_RULE = Range(lambda value: True, 'what the rule takes')  # which checks it when it is called
