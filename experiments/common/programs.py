"""Compiled programs are kept for later runs, in the user's cache folder."""

import contextlib
import hashlib
import os
import pathlib
import platform
import re
import sys
import time

DAYS_KEPT = 30
CPUINFO = pathlib.Path('/proc/cpuinfo')


def share() -> None:
    """Keeps compiled programs in `$XDG_CACHE_HOME/lcn_jax` (`~/.cache/lcn_jax`), for all binaries.

    A program is compiled again after 30 days, and the folder may be deleted at any time.
    JAX_COMPILATION_CACHE_DIR names another one, and JAX_ENABLE_COMPILATION_CACHE=0 keeps none.
    """
    if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
        return
    cache = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    folder = pathlib.Path(cache) / 'lcn_jax' / f'programs-{_instructions()}'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _delete_old(folder)
    except OSError:  # no home, or one that cannot be written
        return
    os.environ['JAX_COMPILATION_CACHE_DIR'] = str(folder)  # if JAX is imported later
    if 'jax' in sys.modules:
        sys.modules['jax'].config.update('jax_compilation_cache_dir', str(folder))


def _delete_old(folder: pathlib.Path) -> None:
    """Deletes programs that are older than DAYS_KEPT, or the folder would grow for ever.

    JAX can bound its size, but needs `filelock` for it, lets all processes wait for one lock, and
    can no longer write to a folder in which it once kept programs without a bound.
    """
    for program in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process deletes them, too
            if time.time() - program.stat().st_mtime > DAYS_KEPT * 24 * 3600:
                program.unlink()


def _instructions() -> str:
    """A checksum of what the processor can do: hosts that share a home may have different ones."""
    known = (
        re.search(r'(?:flags|Features)\s*:.*', CPUINFO.read_text()) if CPUINFO.exists() else None
    )
    text = f'{platform.machine()} {known[0] if known else platform.processor()}'
    return hashlib.sha256(text.encode()).hexdigest()[:8]
