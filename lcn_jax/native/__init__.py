"""The three sums of a local layer on CPU, in C++: `local.cc`, built for the machine that runs it.

The library is compiled when it is first needed, in a few seconds, and kept in
`$XDG_CACHE_HOME/lcn_jax` (`~/.cache/lcn_jax`), one file for each source, compiler, processor and
version of jaxlib. The compiler is `$CXX`, or else `c++`; `LCN_NATIVE=0` switches the library off.

The functions here have no derivatives and no rule for vmap: `lcn_jax.local` gives them both.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import itertools
import os
import platform
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SOURCE = Path(__file__).with_name('local.cc')
TARGETS = ('lcn_forward', 'lcn_input_gradient', 'lcn_kernel_gradient')

# On ARM, compilers take the processor from -mcpu, elsewhere from -march. Products and sums may be
# fused, but nothing else is reordered: infinities and NaN spread as they do in XLA.
_NATIVE = '-mcpu=native' if platform.machine() in ('aarch64', 'arm64') else '-march=native'
_FLAGS = ['-std=c++17', '-O3', _NATIVE, '-ffp-contract=fast']


class Spec(NamedTuple):
    """Which pixels the output positions see: D = 1, 2 or 3 numbers each."""

    size: tuple[int, ...]  # of x, with its padding
    taps: tuple[int, ...]  # of a receptive field, the kernel's size
    stride: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    groups: int

    @property
    def output(self) -> tuple[int, ...]:
        """The numbers of positions, as many as have their whole receptive field in x."""
        axes = zip(self.size, self.taps, self.stride, self.kernel_dilation)
        return tuple((n - (t - 1) * d - 1) // s + 1 for n, t, s, d in axes)


def forward(x: jax.Array, kernel: jax.Array, spec: Spec) -> jax.Array:
    """y[p, n, o] = sum_{t, c} x[p · stride + t · dilation, n, c] · kernel[p, t, c, o].

    p, an output position, and t, a tap, have D axes. The features of y and the channels of x lie
    group by group; a group's features see its channels only.

    Args:
      x: (*spec.size, N, groups · C), padded already.
      kernel: (*spec.output, *spec.taps, C, O), with the dtype of x, which `supports` must accept.

    Returns:
      (*spec.output, N, O), with the dtype of x. Sums are taken in float32.

    Raises:
      RuntimeError: the library is not `available`.
      ValueError: the shapes or dtypes do not fit together.
    """
    return _call('lcn_forward', spec, 'y', x=x, kernel=kernel)


def input_gradient(dy: jax.Array, kernel: jax.Array, spec: Spec) -> jax.Array:
    """The derivative of sum(dy · y) by x, which has its shape; 0 where no neuron looks."""
    return _call('lcn_input_gradient', spec, 'x', y=dy, kernel=kernel)


def kernel_gradient(x: jax.Array, dy: jax.Array, spec: Spec) -> jax.Array:
    """The derivative of sum(dy · y) by the kernel, which has its shape."""
    return _call('lcn_kernel_gradient', spec, 'kernel', x=x, y=dy)


def supports(dtype: np.dtype | type) -> bool:
    """The library computes in this dtype: float32 or bfloat16."""
    return jnp.dtype(dtype) in (jnp.float32, jnp.bfloat16)


def available() -> bool:
    """The library is loaded; builds it first if need be."""
    return _load()[0]


def describe() -> str:
    """One line: which library is used, or why there is none."""
    return _load()[1]


def _call(target: str, spec: Spec, result: str, **operands: jax.Array) -> jax.Array:
    if not available():
        raise RuntimeError(describe())
    left, right = operands.values()
    examples = left.shape[-2]
    features = right.shape[-1]
    channels = operands['x'].shape[-1] // spec.groups if 'x' in operands else right.shape[-2]
    shapes = {
        'x': (*spec.size, examples, spec.groups * channels),
        'kernel': (*spec.output, *spec.taps, channels, features),
        'y': (*spec.output, examples, features),
    }
    got = {name: array.shape for name, array in operands.items()}
    if any(shapes[name] != shape for name, shape in got.items()) or features % spec.groups:
        raise ValueError(f'a local layer with {spec} cannot have the shapes {got}.')
    if left.dtype != right.dtype or not supports(left.dtype):
        raise ValueError(f'{left.dtype} and {right.dtype} are not both float32 or both bfloat16.')
    missing = 3 - len(spec.size)
    axes = (spec.size, spec.output, spec.taps, spec.stride, spec.kernel_dilation)
    layer = [*itertools.chain(*((1,) * missing + numbers for numbers in axes))]
    layer += [examples, spec.groups, channels, features // spec.groups]  # as `Layer` in local.cc
    out = jax.ShapeDtypeStruct(shapes[result], left.dtype)
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
            built.replace(path)
    return path


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _first_error(output: str) -> str:
    lines = output.strip().splitlines() or ['failed']
    return next((line for line in lines if 'error' in line), lines[0])
