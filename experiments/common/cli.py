"""How a binary runs: a user's mistake ends in one line instead of a traceback."""

import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from experiments.common import config_files, programs
from lcn_jax.errors import Stopped, UsageError

STOPPED = 75  # the status EX_TEMPFAIL of sysexits.h: the same command may succeed later


def define_config(text: str) -> flags.FlagHolder:
    """The required flag `--config`: a file with `get_config(kind)`, a colon, and the kind.

    One of the project may be given by its name (`config_files.py`)."""
    holder = config_flags.DEFINE_config_file('config', None, text, lock_config=True)
    flags.mark_flag_as_required('config')
    return holder


def run(main: Callable[[Sequence[str]], None]) -> None:
    """`absl.app.run`, but a UsageError, or anything wrong with the flags, is printed as one line.

    The exit status is then 1. What stopped before its end says so and exits with STOPPED. Ctrl-C
    where there is nothing to save exits with 130, as in a shell.
    """

    def guarded(argv):
        warnings.showwarning = lambda message, *_: print('warning:', message, file=sys.stderr)
        sys.unraisablehook = _show_unraisable
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors='replace')  # a terminal without × gets a question mark
        if not flags.FLAGS['verbosity'].present:
            logging.set_verbosity(logging.FATAL)  # what orbax and others log as errors, they raise
        programs.share()
        try:
            main(argv)
        except UsageError as e:
            _fail(e)
        except Stopped as e:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it has been obeyed
            print(e)
            sys.exit(STOPPED)
        except KeyboardInterrupt:
            sys.exit(130)

    app.run(guarded, flags_parser=_parse)


def _show_unraisable(unraisable: 'sys.UnraisableHookArgs') -> None:
    """As Python does, but for writes of orbax that go on when one of them has failed."""
    if str(unraisable.exc_value) != 'Event loop is closed':
        sys.__unraisablehook__(unraisable)


def _parse(argv: Sequence[str]) -> Sequence[str]:
    """Parses the flags; only the name of the program is left."""
    for argument in argv:
        if any('\udc80' <= character <= '\udcff' for character in argument):
            _fail(f'this locale has no encoding for {argument!a}: set PYTHONUTF8=1.')
    try:
        rest = flags.FLAGS(config_files.found(argv))
    except OSError as e:  # an override of a config whose file could not be read
        _fail(f'there is no config file ({str(e).splitlines()[-1]}).')
    except (AttributeError, KeyError) as e:
        _check_names(argv)
        # The message contains the original one in quotes, sometimes twice.
        text = str(e).replace('\\n', '; ').replace('\\', '').strip('"\'')
        _fail(f'there is no config field {text}')
    except (flags.Error, ValueError, TypeError) as e:
        # ml_collections puts the whole traceback into the message, with the reason at its end.
        _fail(str(e).rpartition('UsageError: ')[2])
    _check_config_file()
    if len(rest) > 1:
        _fail(f'unexpected argument {rest[1]!r}; flags look like --name=value.')
    return rest


def _check_names(argv: Sequence[str]) -> None:
    """Fails if a flag sets a field of the config that has another name now."""
    from lcn_jax.training import config as configs  # imports JAX

    flag_names = (argument.lstrip('-').partition('=')[0] for argument in argv)
    try:
        configs.check_names(name.removeprefix('config.') for name in flag_names)
    except UsageError as e:
        _fail(e)


def _check_config_file() -> None:
    """ml_collections would notice a missing file only when the config is first used."""
    if 'config' in flags.FLAGS:
        path = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')[0]
        if not os.path.isfile(path):
            _fail(f'there is no config file {path}.')


def _fail(message: object) -> NoReturn:
    print('error:', ' '.join(str(message).split()), file=sys.stderr)
    sys.exit(1)
