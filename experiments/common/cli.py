"""How a binary runs: a user's mistake ends in one line instead of a traceback."""

import functools
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from experiments.common import config_files, programs
from lcn_jax.commands import STOPPED
from lcn_jax.errors import Stopped, UsageError


def define_config(text: str) -> flags.FlagHolder:
    """The required flag `--config`: a file with `get_config(kind)`, a colon, and the kind.

    One of the project may be given by its name (`config_files.py`).
    """
    # New fields are options of what is the user's own; `_check_config` refuses others.
    holder = config_flags.DEFINE_config_file(
        'config', None, text, lock_config=False, accept_new_attributes=True
    )
    flags.FLAGS['config'].parser = _ConfigFile('config', lock_config=False)
    flags.mark_flag_as_required('config')
    return holder


class _ConfigFile(ConfigFileFlagParser):
    """Adds the sections of fields that flags set: ml_collections makes new fields only."""

    def parse(self, path: str) -> Any:
        config = super().parse(path)
        for argument in sys.argv:
            names = argument.lstrip('-').partition('=')[0].split('.')
            if len(names) > 2 and names[0] == self.name and isinstance(config, ConfigDict):
                sections = names[-2:0:-1]  # from the inside
                config.update(functools.reduce(lambda inner, name: {name: inner}, sections, {}))
        return config


def run(main: Callable[[Sequence[str]], None]) -> None:
    """`absl.app.run`, but a UsageError, or anything wrong with the flags, is printed as one line.

    The exit status is then 1. What stopped before its end says so and exits with STOPPED. Ctrl-C
    where there is nothing to save exits with 130, and a pipe that nobody reads with 141, as in a
    shell.
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

    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        for flag in defined:
            if module.startswith('experiments.') or flag.name == 'config':  # or --help hides them
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    try:
        try:
            app.run(guarded, flags_parser=_parse)
        finally:
            sys.stdout.flush()  # a short text, such as that of --help, is still in the buffer
    except BrokenPipeError:  # nobody reads on, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where Python flushes what is left
        sys.exit(128 + signal.SIGPIPE)


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
    except BrokenPipeError:  # of --help
        raise
    except OSError as e:  # an override of a config whose file could not be read
        _fail(f'there is no config file ({str(e).splitlines()[-1]}).')
    except (flags.Error, ValueError, TypeError) as e:
        # ml_collections puts the whole traceback into the message, with the reason at its end, and
        # the error of ast.literal_eval, which shows an address.
        _fail(str(e).rpartition('UsageError: ')[2].partition(': ValueError(')[0])
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if flag.present and flag.value in ('', []) and not name.startswith('config.'):
            _fail(f'--{name} is empty: give a value, or leave it out. Is a variable not set?')
    if 'config' in flags.FLAGS:
        _check_config()
    if len(rest) > 1:
        _fail(f'unexpected argument {rest[1]!r}; flags look like --name=value.')
    return rest


def _check_config() -> None:
    """Fails if there is no such config file, which ml_collections notices late, or such a field."""
    path = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')[0]
    if not os.path.isfile(path):
        _fail(f'there is no config file {path}.')
    from lcn_jax.training import config as configs  # imports JAX, as all do that take a config

    try:
        configs.check_names(flags.FLAGS.config)
    except UsageError as e:
        _fail(e)


def _fail(message: object) -> NoReturn:
    sys.stdout.flush()  # what was printed before comes before, in one file, too
    print('error:', ' '.join(str(message).split()), file=sys.stderr)
    sys.exit(1)
