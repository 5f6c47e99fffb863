"""What the binaries have in common: a user's mistake ends in one line, not in a traceback."""

import sys
import warnings
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from lcn_jax.errors import Stopped, UsageError


def run(main: Callable[[Sequence[str]], None]) -> None:
    """`absl.app.run`, but a UsageError, or anything wrong with the flags, is printed as one line.

    The exit status is then 1. A run that was asked to stop says so, and the status is 0; Ctrl-C
    where there is nothing to save ends with 130, as in a shell.
    """

    def parse(argv):
        try:
            rest = flags.FLAGS(argv)
            for value in flags.FLAGS.flag_values_dict().values():
                hasattr(
                    value, 'keys'
                )  # a config file that could not be loaded raises only when used
        except (AttributeError, KeyError) as e:
            # The message is a message quoted, or quoted twice.
            _fail(
                'there is no config field '
                + str(e).replace('\\n', '; ').replace('\\', '').strip('"\'')
            )
        except Exception as e:  # a config file is a program and may fail in any way
            # ml_collections puts the whole traceback into the message; what went wrong comes last.
            _fail(str(e).rpartition('UsageError: ')[2])
        if len(rest) > 1:
            _fail(f'unexpected argument {rest[1]!r}; flags look like --name=value.')
        return rest

    def guarded(argv):
        warnings.showwarning = lambda message, *_: print('warning:', message, file=sys.stderr)
        if not flags.FLAGS['verbosity'].present:
            logging.set_verbosity(logging.ERROR)
        try:
            main(argv)
        except UsageError as e:
            _fail(e)
        except Stopped as e:
            print(e)
        except KeyboardInterrupt:
            sys.exit(130)

    app.run(guarded, flags_parser=parse)


def _fail(message: object) -> None:
    print('error:', ' '.join(str(message).split()), file=sys.stderr)
    sys.exit(1)
