"""The three sums of a local layer on CPU, in C++: `local.cc`, built for the machine that runs it.

The library is compiled when it is first needed, in a few seconds, and kept in
`$XDG_CACHE_HOME/lcn_jax` (`~/.cache/lcn_jax`), one file for each source, compiler, processor and
version of jaxlib. That folder may be deleted at any time. The compiler is `$CXX`, or else `c++`
(GCC and Clang know the extensions of the source); `LCN_NATIVE=0` switches the library off.

The functions here are an implementation of `bilinear.py`, which gives them derivatives and a rule
for vmap.
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
import numpy as np

from lcn_jax.layer.backends.patches import padded, unpadded
from lcn_jax.layer.grid import Grid

SOURCE = Path(__file__).with_name('local.cc')
TARGETS = ('lcn_forward', 'lcn_input_gradient', 'lcn_kernel_gradient')

# On ARM, compilers take the processor from -mcpu, elsewhere from -march. Products and sums may be
# fused, but nothing else is reordered: infinities and NaN spread as they do in XLA.
_NATIVE = '-mcpu=native' if platform.machine() in ('aarch64', 'arm64') else '-march=native'
_FLAGS = ['-std=c++17', '-O3', _NATIVE, '-ffp-contract=fast']


def forward(x: jax.Array, kernel: jax.Array, grid: Grid, groups: int) -> jax.Array:
    """y[p, n, o] = sum_{t, c} x[pixel(p, t), n, c] · kernel[p, t, c, o].

    p is an output position and t a tap; channels and features lie group by group.

    Args:
      x: (*input, N, groups · C), float32 or bfloat16.
      kernel: (*output, *kernel, C, O), with the dtype of x.

    Returns:
      (*output, N, O), with the dtype of x. Sums are taken in float32.

    Raises:
      RuntimeError: the library is not `available`.
    """
    return _call('lcn_forward', 'y', grid, groups, x=padded(x, grid), kernel=kernel)


def input_gradient(dy: jax.Array, kernel: jax.Array, grid: Grid, groups: int) -> jax.Array:
    """The derivative of sum(dy · y) by x, which has its shape; 0 where no neuron looks."""
    dx_padded = _call('lcn_input_gradient', 'x', grid, groups, y=dy, kernel=kernel)
    return unpadded(dx_padded, grid)


def kernel_gradient(x: jax.Array, dy: jax.Array, grid: Grid, groups: int) -> jax.Array:
    """The derivative of sum(dy · y) by the kernel, which has its shape."""
    return _call('lcn_kernel_gradient', 'kernel', grid, groups, x=padded(x, grid), y=dy)


def computes(dtype: Any) -> bool:
    """The library is available and computes in this dtype: float32 or bfloat16."""
    return jnp.dtype(dtype) in (jnp.float32, jnp.bfloat16) and available()


def available() -> bool:
    """The library is loaded; builds it first if need be."""
    return _load()[0]


def describe() -> str:
    """One line: which library is used, or why there is none."""
    return _load()[1]


def _call(target: str, result: str, grid: Grid, groups: int, **operands: jax.Array) -> jax.Array:
    """The array `result` of x, which is padded, kernel and y, from the other two."""
    if not available():
        raise RuntimeError(describe())
    left, right = operands.values()
    examples, features = left.shape[-2], right.shape[-1]
    channels = operands['x'].shape[-1] // groups if 'x' in operands else right.shape[-2]
    shape = {
        'x': (*grid.seen_size, examples, groups * channels),
        'kernel': (*grid.output_size, *grid.kernel_size, channels, features),
        'y': (*grid.output_size, examples, features),
    }[result]
    missing = (1,) * (3 - grid.dimensions)
    axes = (grid.seen_size, grid.output_size, grid.kernel_size, grid.stride, grid.kernel_dilation)
    layer = [number for numbers in axes for number in missing + numbers]
    layer += [examples, groups, channels, features // groups]  # as `Layer` in local.cc
    out = jax.ShapeDtypeStruct(shape, left.dtype)
    return jax.ffi.ffi_call(target, out)(left, right, layer=np.array(layer, np.int64))


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
    # No compiler, no place for the library, or a file that is not one; no home; a malformed CXX.
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
    parts = [SOURCE.read_text(), macros, importlib.metadata.version('jaxlib'), *compiler]
    key = hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:16]
    folder = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'lcn_jax'
    path = folder / f'local-{key}.so'
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Processes may build at the same time: each renames a complete file into place.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = Path(scratch) / path.name
            include = ['-isystem', jax.ffi.include_dir()]
            _run([*compiler, *include, '-shared', '-fPIC', str(SOURCE), '-o', str(built)])
            with built.open('rb') as file:
                os.fsync(file.fileno())  # after a crash, a name without its content would stay
            built.replace(path)
    return path


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _first_error(output: str) -> str:
    lines = output.strip().splitlines() or ['failed']
    return next((line for line in lines if 'error' in line), lines[0])
