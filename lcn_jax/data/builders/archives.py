"""Files in folders, zip and tar archives, without the litter of operating systems."""

import codecs
import contextlib
import functools
import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from lcn_jax.errors import UsageError

LITTER = {'__macosx', 'thumbs.db', 'ehthumbs.db', 'desktop.ini', '$recycle.bin', '@eadir'}
IMAGES = {'.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp'}

Files = Mapping[str, Callable[[], bytes]]  # path with forward slashes -> reads the file


@contextlib.contextmanager
def blame(name: str | os.PathLike):
    """Turns errors of reading an archive or a file into a UsageError that names it."""
    try:
        yield
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        OSError,
    ) as error:
        raise UsageError(f'{name} cannot be read, it may be corrupt: {error}.') from error


@contextlib.contextmanager
def files(source: Path) -> Iterator[Files]:
    """The files of a folder, or of a zip or tar archive, by their paths inside it.

    Hidden files and what operating systems leave behind (Thumbs.db, __MACOSX/ and the like) are
    left out; links to folders are followed.

    Raises:
      UsageError: `source` does not exist or is not an archive; or, when a file is read, that it
        is corrupt.
    """
    if not source.exists():
        raise UsageError(f'there is no {source}.')
    with contextlib.ExitStack() as stack:
        with blame(source):
            if source.is_dir():
                found = _in_folder(source)
            elif tarfile.is_tarfile(source):
                found = _in_tar(stack.enter_context(tarfile.open(source)), str(source))
            elif zipfile.is_zipfile(source):
                found = _in_zip(stack.enter_context(zipfile.ZipFile(source)), str(source))
            else:
                raise UsageError(
                    f'{source} is not a folder, zip or tar archive; if it should be an archive, it '
                    'may be corrupt.'
                )
        yield found


@contextlib.contextmanager
def files_in_tar(content: bytes, name: str) -> Iterator[Files]:
    """The files of an uncompressed tar archive that has been read already; as `files`."""
    with contextlib.ExitStack() as stack:
        with blame(name):
            tar = stack.enter_context(tarfile.open(fileobj=io.BytesIO(content), mode='r:'))
            found = _in_tar(tar, name)
        yield found


def folders_with(name: str, files: Files) -> list[str]:
    """The folders that hold a file of this name: '' or paths that end in a slash."""
    folders = (path.removesuffix(name) for path in files if path.endswith(name))
    return [folder for folder in folders if folder.endswith('/') or not folder]


def is_image(path: str) -> bool:
    """Whether the file is an image by its name."""
    return PurePosixPath(path).suffix.lower() in IMAGES


def read(path: str | os.PathLike) -> bytes:
    """The content of a file; UsageError if it cannot be read."""
    with blame(path), open(path, 'rb') as file:
        return file.read()


def lines(content: bytes, name: str) -> list[str]:
    """The lines of a text file without space around them, and without empty ones.

    Raises:
      UsageError: it is not UTF-8, or UTF-16 with a byte-order mark; the message starts with `name`.
    """
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode('utf-16' if is_utf16 else 'utf-8-sig')
    except UnicodeDecodeError as error:
        raise UsageError(f'{name} is not a text file in UTF-8: {error}.') from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _is_litter(path: str) -> bool:
    return any(part.startswith('.') or part.lower() in LITTER for part in path.split('/'))


def _in_folder(folder: Path) -> Files:
    found = {}
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not _is_litter(name)]
        inside = Path(root).relative_to(folder)
        for name in names:
            found[(inside / name).as_posix()] = functools.partial(read, os.path.join(root, name))
    return _without_litter(found)


def _in_zip(archive: zipfile.ZipFile, name: str) -> Files:
    def read_member(member):
        with blame(name):
            try:
                return archive.read(member)
            except RuntimeError as error:  # encrypted, or compressed in a way Python cannot read
                raise zipfile.BadZipFile(error) from error

    names = (member for member in archive.namelist() if not member.endswith('/'))
    return _without_litter({member: functools.partial(read_member, member) for member in names})


def _in_tar(tar: tarfile.TarFile, name: str) -> Files:
    def read_member(member):
        with blame(name):
            file = tar.extractfile(member)
            assert file is not None  # None for what is not a file
            return file.read()

    members = [member for member in tar if member.isfile()]
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError('the end is missing')
    return _without_litter({m.name: functools.partial(read_member, m) for m in members})


def _without_litter(found: Files) -> Files:
    tidy = ((path.removeprefix('./'), read) for path, read in found.items())
    return {path: read for path, read in tidy if not _is_litter(path)}
