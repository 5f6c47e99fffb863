"""Files that a run writes: each is there as a whole or not at all, and JSON is strict.

Paths may be URLs such as gs://bucket/run, wherever `etils.epath` can open them.
"""

import contextlib
import errno
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from lcn_jax.errors import UsageError

Path = str | os.PathLike
SCHEMES = ('gs', 's3', 'az', 'hf')  # of the URLs that epath knows
NON_FINITE = ('inf', '-inf', 'nan')


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an error of the file system, raised while `path` is written, into a UsageError.

    Every other exception passes through.
    """
    try:
        yield
    except OSError as e:
        raise _not_written(path, str(e)) from e
    except ValueError as e:
        if 'Error writing' not in str(e):  # how tensorstore reports a full disk, among others
            raise
        raise _not_written(path, str(e).partition('\n')[0][-120:]) from e


def _not_written(path: Path, reason: str) -> UsageError:
    return UsageError(
        f'cannot write {os.fspath(path)} ({reason}). Make room or choose another place, and run '
        'the same command again: earlier files are kept, and a run continues from its last good '
        'checkpoint.'
    )


def locate(path: Path) -> epath.Path:
    """The absolute path, with ~ expanded, or the URL.

    Raises:
      UsageError: no installed package opens this kind of URL.
    """
    scheme, separator, _ = os.fspath(path).partition('://')
    if not separator:
        return epath.Path(path).expanduser().absolute()
    try:
        if scheme not in SCHEMES:
            raise ImportError(f'known are {", ".join(SCHEMES)}')
        epath.Path(path).exists()  # imports the package
    except ImportError as e:
        raise UsageError(
            f'cannot open {os.fspath(path)}: there is no package for {scheme}:// paths ({e}). '
            'Install it, or choose a local folder.'
        ) from e
    return epath.Path(path)


def local_folder(flag: str, path: Path) -> pathlib.Path:
    """`path`, which must be on this machine; UsageError, with the name of the `flag`, for a URL."""
    if '://' in os.fspath(path):
        raise UsageError(f'{flag}={os.fspath(path)} must be a local path, not a URL.')
    return pathlib.Path(path)


def make_folder(path: Path) -> epath.Path:
    """The folder at `path`, made with its parents if it does not exist; UsageError if it cannot."""
    folder = locate(path)
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_text(path: Path, text: str) -> None:
    """Replaces the file at `path`; UsageError if it cannot be written.

    After a crash, even of the machine, the file is the old or the new one as a whole.
    """
    whole = epath.Path(path)
    part = whole.with_name(f'{whole.name}.{os.getpid()}.part')  # other processes may write it too
    with writing(path):
        try:
            part.write_text(text, encoding='utf-8')
            sync(part)
            part.replace(whole)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        sync(whole.parent)


def append_text(path: Path, text: str) -> None:
    """Adds `text` to the end of the file at `path`; UsageError if it cannot be written."""
    if '://' in os.fspath(path):  # object stores cannot append
        with writing(path):
            earlier = epath.Path(path).read_text(encoding='utf-8')
        write_text(path, earlier + text)
        return
    with writing(path), open(path, 'a', encoding='utf-8') as file:
        file.write(text)


def sync(path: Path) -> None:
    """Writes to the disk what the system still keeps of a file or folder in memory."""
    if '://' in os.fspath(path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as e:
        if e.errno != errno.EINVAL:  # what file systems say that cannot do this with folders
            raise
    finally:
        os.close(descriptor)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON with a newline at the end.

    JSON has no infinity or NaN: these become the strings in NON_FINITE.
    """
    return json.dumps(_spelled(value), indent=indent) + '\n'


def from_json(text: str) -> Any:
    """The inverse of `to_json`; ValueError if `text` is not valid JSON."""
    return _unspelled(json.loads(text))


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The object that `to_json` wrote to the file at `path`.

    Raises:
      UsageError: the file cannot be read. The message ends with the `remedy`.
    """
    try:
        value = from_json(epath.Path(path).read_text(encoding='utf-8'))
        if not isinstance(value, dict):
            raise ValueError('it holds no object')
    except (OSError, ValueError) as e:
        raise UsageError(f'{os.fspath(path)} is damaged or cannot be read ({e}): {remedy}.') from e
    return value


def _spelled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _spelled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _unspelled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unspelled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unspelled(item) for item in value]
    return float(value) if value in NON_FINITE else value
