"""The three sums of a local layer on CPU, in C++: `local.cc`, built for the machine that runs it.

The library is compiled when it is first needed, in a few seconds, and kept in
`$XDG_CACHE_HOME/lcn_jax` (`~/.cache/lcn_jax`), one file for each source, compiler, processor and
version of jaxlib. The compiler is `$CXX`, or else `c++`; `LCN_NATIVE=0` switches the library off.

The functions here have no derivatives and no rule for vmap: `lcn_jax.local` gives them both.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

SOURCE = Path(__file__).with_name('local.cc')
TARGETS = ('lcn_forward', 'lcn_input_gradient', 'lcn_kernel_gradient')

# On ARM, compilers take the processor from -mcpu, elsewhere from -march. Products and sums may be
# fused, but nothing else is reordered: infinities and NaN spread as they do in XLA.
_NATIVE = '-mcpu=native' if platform.machine() in ('aarch64', 'arm64') else '-march=native'
_FLAGS = ['-std=c++17', '-O3', _NATIVE, '-ffp-contract=fast']


class Spec(NamedTuple):
    """Which pixels the positions see; D numbers each, and the number of groups."""

    size: tuple[int, ...]  # of x, with its padding
    taps: tuple[int, ...]  # of a receptive field, the kernel's size
    stride: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    groups: int


def forward(x: jax.Array, kernel: jax.Array, spec: Spec) -> jax.Array:
    """y[p, n, o] = sum_{t, c} x[p · stride + t · dilation, n, c] · kernel[p, t, c, o].

    p, an output position, and t, a tap, have D = 1, 2 or 3 axes. The O features of y, and the
    groups · C channels of x, lie group by group; a group's features see its channels only.

    Args:
      x: (*spec.size, N, groups · C), padded already.
      kernel: (*output, *spec.taps, C, O), with the dtype of x, which `supports` must accept.
      spec: the geometry; at least `(output - 1) · stride + (taps - 1) · dilation + 1` pixels.

    Returns:
      (*output, N, O), with the dtype of x. Sums are taken in float32.

    Raises:
      RuntimeError: the library is not `available`.
    """
    rank = len(spec.size)
    shape = (*kernel.shape[:rank], x.shape[rank], kernel.shape[-1])
    return _call('lcn_forward', shape, x, kernel, spec)


def input_gradient(dy: jax.Array, kernel: jax.Array, spec: Spec) -> jax.Array:
    """(*spec.size, N, groups · C): the derivative of sum(dy · y) by x, 0 where no neuron looks."""
    rank = len(spec.size)
    shape = (*spec.size, dy.shape[rank], spec.groups * kernel.shape[-2])
    return _call('lcn_input_gradient', shape, dy, kernel, spec)


def kernel_gradient(x: jax.Array, dy: jax.Array, spec: Spec) -> jax.Array:
    """(*output, *spec.taps, C, O): the derivative of sum(dy · y) by the kernel."""
    rank = len(spec.size)
    shape = (*dy.shape[:rank], *spec.taps, x.shape[-1] // spec.groups, dy.shape[-1])
    return _call('lcn_kernel_gradient', shape, x, dy, spec)


def supports(dtype: np.dtype | type) -> bool:
    """The library computes in this dtype: float32 or bfloat16."""
    return jnp.dtype(dtype) in (jnp.float32, jnp.bfloat16)


def available() -> bool:
    """The library is loaded; builds it first if need be."""
    return _load()[0]


def describe() -> str:
    """One line: which library is used, or why there is none."""
    return _load()[1]


def _call(target: str, shape: Sequence[int], a: jax.Array, b: jax.Array, spec: Spec) -> jax.Array:
    if not available():
        raise RuntimeError(describe())
    return jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(shape, a.dtype))(
        a,
        b,
        stride=np.array(spec.stride, np.int64),
        kernel_dilation=np.array(spec.kernel_dilation, np.int64),
        groups=np.int64(spec.groups),
    )


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
    except OSError as error:  # no compiler, no place for the library, or a file that is no library
        return False, f'no native kernel: {error}'
    for name in TARGETS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform='cpu')
    return True, f'native kernel: {path}'


def _build() -> Path:
    """The library for this machine, compiled unless it is in the cache."""
    compiler = [*shlex.split(os.environ.get('CXX') or 'c++'), *_FLAGS]
    # The macros name the compiler's version and every extension of the processor's instructions.
    macros = _run([*compiler, '-dM', '-E', '-x', 'c++', os.devnull])
    parts = [SOURCE.read_text(), macros, jaxlib.__version__, *compiler]
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
            built.replace(path)
    return path


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _first_error(output: str) -> str:
    lines = output.strip().splitlines() or ['failed']
    return next((line for line in lines if 'error' in line), lines[0])
