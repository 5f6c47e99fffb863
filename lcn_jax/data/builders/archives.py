"""Files in folders, zip and tar archives, without the litter of operating systems."""

import codecs
import contextlib
import functools
import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from tarfile import BLOCKSIZE, ReadError, TarError, TarFile, is_tarfile
from zipfile import BadZipFile, ZipFile, is_zipfile

from lcn_jax.errors import UsageError

LITTER = {'__macosx', 'thumbs.db', 'ehthumbs.db', 'desktop.ini', '$recycle.bin', '@eadir'}
IMAGES = {'.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp'}
IMAGES |= {'.jfif', '.jpe', '.pnm'}  # other names of the same

Files = Mapping[str, Callable[[], bytes]]  # path with forward slashes -> reads the file


@contextlib.contextmanager
def reading(name: str | os.PathLike) -> Iterator[None]:
    """Turns errors of reading an archive or a file into a UsageError that names it."""
    try:
        yield
    # RuntimeError: an encrypted zip, or a compression that Python cannot read.
    except PermissionError as error:
        raise UsageError(f'{name} cannot be read ({error}): change its permissions.') from error
    except (TarError, BadZipFile, LZMAError, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise UsageError(f'{name} cannot be read, it may be corrupt: {error}.') from error


@contextlib.contextmanager
def files(source: Path) -> Iterator[Files]:
    """The files of a folder, or of a zip or tar archive, by their paths inside it.

    Leaves out hidden files and what operating systems leave behind (Thumbs.db, __MACOSX/ and the
    like), and follows links to folders. UsageError if `source` does not exist or is not an archive;
    reading a corrupt file raises it, too.
    """
    if not source.exists():
        raise UsageError(f'there is no {source}.')
    with contextlib.ExitStack() as stack:
        with reading(source):
            if source.is_dir():
                paths, read_file = list(_paths_in(source)), lambda path: read(source / path)
            elif is_tarfile(source):
                paths, read_file = _members(stack.enter_context(TarFile.open(source)))
            elif is_zipfile(source):
                archive = stack.enter_context(ZipFile(source))
                paths, read_file = archive.namelist(), archive.read
            else:
                raise UsageError(
                    f'{source} is not a folder, zip or tar archive; if it should be an archive, it '
                    'may be corrupt.'
                )
        yield _without_litter(paths, read_file, str(source))


def files_in_tar(content: bytes, name: str) -> Files:
    """As `files`, for the content of an uncompressed tar archive."""
    with reading(name):
        paths, read_file = _members(TarFile(fileobj=io.BytesIO(content)))
    return _without_litter(paths, read_file, name)


def folders_with(name: str, files: Files) -> list[str]:
    """The folders that hold a file of this name: '' or paths that end in a slash."""
    folders = (path.removesuffix(name) for path in files if path.endswith(name))
    return [folder for folder in folders if folder.endswith('/') or not folder]


def is_image(path: str) -> bool:
    """Whether the name of a file is that of an image."""
    return PurePosixPath(path).suffix.lower() in IMAGES


def read(path: str | os.PathLike) -> bytes:
    """The content of a file; UsageError if it cannot be read."""
    with reading(path), open(path, 'rb') as file:
        return file.read()


def lines(content: bytes, name: str) -> list[str]:
    """The lines of a text file, stripped, without empty ones.

    UsageError if it is neither UTF-8 nor UTF-16 with a byte-order mark.
    """
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode('utf-16' if is_utf16 else 'utf-8-sig')
    except UnicodeDecodeError as error:
        raise UsageError(f'{name} is not a text file in UTF-8: {error}.') from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _paths_in(folder: Path) -> Iterable[str]:
    def fail(error):
        raise error  # os.walk would leave out what it cannot read

    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = [name for name in folders if not _is_litter(name)]
        inside = Path(root).relative_to(folder)
        yield from ((inside / name).as_posix() for name in names)


def _members(tar: TarFile) -> tuple[Iterable[str], Callable[[str], bytes]]:
    members = {member.name: member for member in tar if member.isfile()}
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(BLOCKSIZE) != bytes(BLOCKSIZE):
        raise ReadError('the end is missing')

    def extract(path):
        file = tar.extractfile(members[path])
        assert file is not None  # None if it is not a file
        return file.read()

    return members, extract


def _without_litter(paths: Iterable[str], read_file: Callable[[str], bytes], archive: str) -> Files:
    def read_member(path):
        with reading(archive):
            return read_file(path)

    tidy = {path.removeprefix('./'): path for path in paths if not path.endswith('/')}
    names = [name for name in tidy if not _is_litter(name)]
    return {name: functools.partial(read_member, tidy[name]) for name in names}


def _is_litter(path: str) -> bool:
    return any(part.startswith('.') or part.lower() in LITTER for part in path.split('/'))
