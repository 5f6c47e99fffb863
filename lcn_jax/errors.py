"""What a user can mend, and what a user asked for."""

import contextlib
from collections.abc import Iterator


class UsageError(ValueError):
    """Bad input; its message is one line that says what is wrong and what to do.

    The binaries print the line and exit with status 1, without a traceback.
    """


class Diverged(UsageError):
    """The loss or a parameter of a training is not finite any more."""


class Stopped(Exception):
    """The run was asked to stop and has saved everything; the message says how to go on.

    The binaries print it and exit with status 0.
    """


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Turns what goes wrong while a run writes to `path` into a UsageError."""
    try:
        yield
    except Exception as e:  # orbax and tensorstore have many names for a full disk
        reason = str(e).partition('\n')[0][-120:]  # tensorstore says last what is wrong
        raise UsageError(
            f'cannot write {path} ({reason}). Make room, or whatever it needs, and run the same '
            'command again: what was written before is kept, and a run goes on from its last good '
            'checkpoint.'
        ) from e
