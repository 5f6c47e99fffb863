"""A trace of some training steps by `jax.profiler`, for `config.profile`."""

import contextlib
import os
from collections.abc import Callable, Iterator

import jax

from lcn_jax.files import Path, writing

WARM_UP = 10  # steps, in which programs are compiled


@contextlib.contextmanager
def tracing(folder: Path, start: int, steps: int) -> Iterator[Callable[[int], int]]:
    """A context that traces `steps` steps of a run that begins after step `start`, into `folder`.

    Its value is called at the end of steps, first with `start`, and returns the step at which it
    must be called next, at the latest.
    """
    first, last, never = start + WARM_UP, start + WARM_UP + steps, 1 << 62
    running = False

    def at(step: int) -> int:
        nonlocal running
        if step == first and steps:
            with writing(folder):
                jax.profiler.start_trace(os.fspath(folder))
            running = True
        if step == last and running:
            jax.profiler.stop_trace()
            running = False
        return next((stop for stop in (first, last) if steps and step < stop), never)

    try:
        yield at
    finally:
        if running:  # the run ends earlier
            jax.profiler.stop_trace()
