"""Exceptions that are shown to users in one line."""


class UsageError(ValueError):
    """Bad input; its message is one line that says what is wrong and what to do.

    The binaries print the line and exit with status 1, without a traceback.
    """


class Diverged(UsageError):
    """The training loss or a parameter is no longer finite."""


class NotWritten(UsageError):
    """A file or folder cannot be written."""


class InUse(UsageError):
    """Another process writes to the workdir."""


class Stopped(Exception):
    """Work is left, and what has been done is saved; the message says how to continue.

    The binaries print it and exit with status 75: not done, and the same command continues.
    """
