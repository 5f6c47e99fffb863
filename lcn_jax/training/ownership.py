"""One run at a time writes to a workdir.

    WORKDIR/lock    locked (`flock`) while a run writes there; it names the process that owns it

The operating system releases the lock when the process ends, however it ends. On NFS and other
shared file systems the server keeps the lock, so it holds for all hosts, and the server releases
it when a host is gone: NFS 4 after a lease of about 90 seconds. A bucket has no locks.
"""

import contextlib
import errno
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from typing import IO

import jax

from lcn_jax.errors import InUse
from lcn_jax.files import make_folder, writing
from lcn_jax.training import parallel

NO_LOCKS = errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP  # such as Lustre mounted without `flock`


@contextlib.contextmanager
def owned(workdir: str) -> Iterator[None]:
    """A context in which no other run can own `workdir`, which is made if it does not exist.

    The first process of a run of several owns it for all of them. Anybody may read there.

    Raises:
      InUse: another run owns it.
      UsageError: it cannot be written.
    """
    if '://' in workdir:
        yield
        return
    path = make_folder(workdir) / 'lock'
    is_first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        with writing(path):
            file = stack.enter_context(open(path, 'ab+', buffering=0))
            free = not is_first or _lock(file, workdir)
        if not parallel.all_true(free):
            file.seek(0)
            owner = file.read().decode(errors='replace') or 'another process'
            raise InUse(
                f'{workdir} is in use by {owner}: wait until it ends, stop it, or choose another '
                'workdir.'
            )
        if is_first:
            with writing(path):
                file.truncate(0)
                file.write(f'process {os.getpid()} on {socket.gethostname()}'.encode())
        yield


def has_locks(folder: str) -> bool:
    """Whether the file system of a folder, which is made if it does not exist, has locks."""
    path = make_folder(folder) / 'lock'
    with writing(path), open(path, 'ab+') as file:  # NFS wants to read what is locked shared
        try:
            _flock(file, fcntl.LOCK_SH)
        except _NoLocks:
            return False
    return True


def _lock(file: IO, workdir: str) -> bool:
    """Whether this process has got the lock, or would not know."""
    try:
        return _flock(file, fcntl.LOCK_EX)
    except _NoLocks as e:
        warnings.warn(
            f'the file system of {workdir} has no locks ({e}): make sure that no other process '
            'uses this workdir.',
            stacklevel=2,
        )
        return True


class _NoLocks(Exception):
    """The file system has no locks; the message is its reason."""


def _flock(file: IO, lock: int) -> bool:
    """Whether this process has got a shared or exclusive lock."""
    try:
        fcntl.flock(file, lock | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as e:
        if e.errno in NO_LOCKS:
            raise _NoLocks(e.strerror) from e
        raise
    return True
