"""Tests search for garbage seldom: the search takes a tenth of their time, and finds little."""

import gc


def search_seldom() -> None:
    """From now on, and never among what is there now, such as everything that is imported."""
    gc.freeze()
    gc.set_threshold(100_000, 20)
