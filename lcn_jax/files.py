"""Files that a run writes: each is there as a whole or not at all, and JSON is strict.

Paths may be URLs such as gs://bucket/run, wherever `etils.epath` can open them.
"""

import contextlib
import errno
import io
import json
import os
import pathlib
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
from etils import epath

from lcn_jax.errors import NotWritten, UsageError

Path = str | os.PathLike
SCHEMES = ('gs', 's3', 'az', 'hf')  # of the URLs that epath knows
FAILED = ('Error writing', 'write() failed')  # what tensorstore and array_record say
REMEDIES = {
    errno.ENOSPC: 'make room there',
    errno.EDQUOT: 'make room there',
    errno.EFBIG: 'make room there',
    errno.EACCES: 'change its permissions',
    errno.EPERM: 'change its permissions',
    errno.EROFS: 'change its permissions',
}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an error of the file system, raised while `path` is written, into a NotWritten.

    Every other exception passes through.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason, number = str(error), getattr(error, 'errno', None)
        if not isinstance(error, OSError):
            start = max(reason.find(failed) for failed in FAILED)
            if start < 0:
                raise
            reason = reason[start:].partition('\n')[0]
            code = re.search(r"os_error_code='(\d+)'", reason)
            number = int(code[1]) if code else None
        raise NotWritten(
            f'cannot write {os.fspath(path)} ({reason}): {_remedy(number)} or choose another '
            'place, and run the same command again.'
        ) from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns an error of the file system, raised while `path` is read, into a UsageError.

    Every other exception passes through.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            f'cannot read {os.fspath(path)} ({error}): {_remedy(error.errno)}, and run the same '
            'command again.'
        ) from error


def _remedy(number: int | None) -> str:
    return REMEDIES.get(number or 0, 'check the path and the disk')


def locate(path: Path) -> epath.Path:
    """The absolute path, with ~ expanded; or the URL, if an installed package opens such URLs.

    UsageError if it is empty, or there is no such package.
    """
    if not os.fspath(path):
        raise UsageError('a path is empty: name a folder or file. Is a variable not set?')
    scheme, separator, _ = os.fspath(path).partition('://')
    if not separator:
        return epath.Path(path).expanduser().absolute()
    try:
        if scheme not in SCHEMES:
            raise ImportError(f'known are {", ".join(SCHEMES)}')
        epath.Path(path).exists()  # imports the package
    except ImportError as error:
        raise UsageError(
            f'cannot open {os.fspath(path)}: there is no package for {scheme}:// paths ({error}). '
            'Install it, or choose a local folder.'
        ) from error
    return epath.Path(path)


def local_folder(flag: str, path: Path) -> pathlib.Path:
    """`path`, which must be on this machine; UsageError, with the name of the `flag`, for a URL."""
    if '://' in os.fspath(path):
        raise UsageError(f'{flag}={os.fspath(path)} must be a local path, not a URL.')
    return pathlib.Path(path)


def make_folder(path: Path) -> epath.Path:
    """The folder at `path`, made with its parents if it does not exist; UsageError if it cannot."""
    folder = locate(path)
    if os.path.islink(folder) and not os.path.exists(folder):
        raise UsageError(
            f'{os.fspath(path)} is a link to {os.readlink(folder)}, which does not exist: make it, '
            'or remove the link.'
        )
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def names_in(folder: epath.Path) -> list[str]:
    """The names in a folder, [] if it does not exist; UsageError if it cannot be read."""
    with reading(folder):
        return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of text in UTF-8."""
    write_bytes(path, text.encode())


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """`write_bytes` of a compressed npz archive with these arrays."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(path, content.getvalue())


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces the file at `path`; UsageError if it cannot be written.

    After a crash, even of the machine, the file is the old or the new one as a whole.
    """
    with replacing(path) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the place of that at `path` at the end, as `write_bytes`."""
    whole = epath.Path(path)
    part = whole.with_name(f'{whole.name}.{uuid.uuid4().hex}.part')  # others may write it too
    with writing(path):
        try:
            with part.open('wb') as file:
                yield file
            sync(part)
            part.replace(whole)
        finally:
            part.unlink(missing_ok=True)
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
    """JSON with a newline at the end; 'inf', '-inf' and 'nan' stand for what JSON does not have."""
    strict = json.loads(json.dumps(value), parse_constant=lambda name: str(float(name)))
    return json.dumps(strict, indent=indent) + '\n'


def from_json(text: str) -> Any:
    """The inverse of `to_json`; ValueError if `text` is not valid JSON."""

    def restored(value):
        match value:
            case dict():
                return {key: restored(item) for key, item in value.items()}
            case list():
                return [restored(item) for item in value]
            case 'inf' | '-inf' | 'nan':
                return float(value)
        return value

    return restored(json.loads(text))


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The object that `to_json` wrote to the file at `path`.

    Raises:
      UsageError: the file cannot be read; if it is damaged, the message ends with the `remedy`.
    """
    with reading(path):
        content = epath.Path(path).read_bytes()
    try:
        value = from_json(content.decode())
        if not isinstance(value, dict):
            raise ValueError('it holds no object')
    except ValueError as error:
        raise UsageError(f'{os.fspath(path)} is damaged ({error}): {remedy}.') from error
    return value
