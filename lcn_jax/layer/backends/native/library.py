"""The C++ library of this folder: built for the machine that runs it, and its custom calls.

The library is compiled when it is first needed, in a few seconds, and kept in
`$XDG_CACHE_HOME/lcn_jax` (`~/.cache/lcn_jax`), one file for each set of sources, compiler,
processor and version of jaxlib. The name of the file ends with a checksum of its content; a file
that does not have it is built anew. A library that belongs to another user is not loaded. That
folder may be deleted at any time. The compiler is `$CXX`, or else `c++` (GCC and Clang know the
extensions of the sources); `LCN_NATIVE=0` switches the library off.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

FOLDER = Path(__file__).parent
SOURCES = ('local.cc', 'norm.cc', 'adamw.cc')
HEADERS = ('common.h', 'products.h')
TARGETS = ('lcn_forward', 'lcn_input_gradient', 'lcn_kernel_gradient', 'lcn_sums', 'lcn_adamw')

# On ARM, compilers take the processor from -mcpu, elsewhere from -march. Products and sums may be
# fused, but nothing else is reordered: infinities and NaN spread as they do in XLA. Compilers take
# square roots in vectors only if these need not set errno.
_NATIVE = '-mcpu=native' if platform.machine() in ('aarch64', 'arm64') else '-march=native'
_FLAGS = ['-std=c++17', '-O3', _NATIVE, '-ffp-contract=fast', '-fno-math-errno', '-shared', '-fPIC']


def call(target: str, results: Any, *operands: jax.Array, **attributes: Any) -> Any:
    """The custom call `target`, one of TARGETS; `results` are the shapes and dtypes of its results.

    Raises:
      RuntimeError: the library is not `available`.
    """
    if not available():
        raise RuntimeError(describe())
    return jax.ffi.ffi_call(target, results)(*operands, **attributes)


def computes(dtype: Any) -> bool:
    """The library is available and computes in this dtype: float32 or bfloat16."""
    return jnp.dtype(dtype) in (jnp.float32, jnp.bfloat16) and available()


def available() -> bool:
    """The library is loaded; builds it first if need be."""
    return _load()[0]


def describe() -> str:
    """One line: which library is used, or why there is none."""
    return _load()[1]


@functools.cache
def _load() -> tuple[bool, str]:
    """(whether the library is loaded, the line of `describe`)."""
    if os.environ.get('LCN_NATIVE') == '0':
        return False, 'no native kernel: LCN_NATIVE=0'
    try:
        path = _build()
        library = ctypes.CDLL(str(path))
    except subprocess.CalledProcessError as error:
        return False, f'no native kernel: {shlex.join(error.cmd[:1])}: {_first_error(error.stderr)}'
    # No compiler, no place for the library, or a folder of another user; no home; a malformed CXX.
    except (OSError, RuntimeError, ValueError) as error:
        return False, f'no native kernel: {error}'
    for name in TARGETS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform='cpu')
    return True, f'native kernel: {path}'


def _build() -> Path:
    """The library for this machine, compiled unless it is in the cache."""
    compiler = [*shlex.split(os.environ.get('CXX') or 'c++'), *_FLAGS]
    # The macros name the compiler's version and every extension of the processor's instructions.
    macros = _run([*compiler, '-dM', '-E', '-x', 'c++', os.devnull])
    sources = [(FOLDER / name).read_text(encoding='utf-8') for name in (*SOURCES, *HEADERS)]
    parts = [*sources, macros, importlib.metadata.version('jaxlib'), *compiler]
    key = hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:16]
    folder = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'lcn_jax'
    folder.mkdir(parents=True, exist_ok=True)
    if not _is_own(folder):
        raise PermissionError(f'{folder} belongs to another user; set XDG_CACHE_HOME.')
    for path in sorted(folder.glob(f'{key}-*.so')):
        if _is_own(path) and path.name == _name(key, path):
            return path
    # Processes may build at the same time: each renames a complete file into place.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        built = Path(scratch) / 'library.so'
        include = ['-isystem', jax.ffi.include_dir()]
        _run([*compiler, *include, *(str(FOLDER / name) for name in SOURCES), '-o', str(built)])
        with built.open('rb') as file:
            os.fsync(file.fileno())  # after a crash, a name without its content would stay
        return built.replace(folder / _name(key, built))


def _name(key: str, library: Path) -> str:
    """The name in the cache of a library with this content."""
    return f'{key}-{hashlib.sha256(library.read_bytes()).hexdigest()[:16]}.so'


def _is_own(path: Path) -> bool:
    return not hasattr(os, 'getuid') or path.stat().st_uid == os.getuid()


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _first_error(output: str) -> str:
    lines = output.strip().splitlines() or ['failed']
    return next((line for line in lines if 'error' in line), lines[0])
