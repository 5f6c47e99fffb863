"""What a user can mend."""


class UsageError(ValueError):
    """Bad input; its message is one line that says what is wrong and what to do.

    The binaries print the line and exit with status 1, without a traceback.
    """
