"""Files in zip and tar archives or in folders; what is corrupt or truncated is named."""

import contextlib
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from lcn_jax.errors import UsageError


@contextlib.contextmanager
def blame(name: str | os.PathLike):
    """Turns what goes wrong with an archive inside into a UsageError that names it."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise UsageError(f'{name} cannot be read, it may be corrupt: {error}.') from error


@contextlib.contextmanager
def files(source: Path) -> Iterator[Mapping[str, Callable[[], bytes]]]:
    """Path inside a zip file or a folder -> function that reads the file.

    Raises:
      UsageError: `source` is not there, or what is read from it is corrupt.
    """
    if source.is_dir():
        paths = (path for path in source.rglob('*') if path.is_file())
        yield {path.relative_to(source).as_posix(): path.read_bytes for path in paths}
        return
    with blame(source):
        archive = zipfile.ZipFile(source)

    def reader(name):
        def read():
            with blame(source):
                return archive.read(name)

        return read

    with archive:
        yield {name: reader(name) for name in archive.namelist() if not name.endswith('/')}


def tar_members(file: BinaryIO, name: str) -> Iterator[tuple[str, bytes]]:
    """(file name without folders, content) of every file in an uncompressed tar, in its order.

    Raises:
      UsageError: the tar is corrupt or does not end as tars do; the message starts with `name`.
    """
    with blame(name), tarfile.open(fileobj=file, mode='r:') as tar:
        while member := tar.next():
            if member.isfile():
                yield member.name.rpartition('/')[2], tar.extractfile(member).read()
            tar.members.clear()  # it would keep the headers of a million images
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError('the end is missing')
