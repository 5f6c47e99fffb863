"""The commit, the machine and the versions that are recorded beside every result."""

import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import jax

FIELDS = 'commit', 'device', 'devices', 'cpu', 'cpus', 'jax', 'python', 'xla_flags'


def provenance() -> dict[str, str | int | None]:
    """The values of FIELDS: commit, with a '+' if files have changed; cpus of this process; ..."""
    values = (
        _commit(),
        jax.devices()[0].device_kind,
        jax.device_count(),
        _processor(),
        len(cores()),
        jax.__version__,
        platform.python_version(),
        os.environ.get('XLA_FLAGS', ''),
    )
    return dict(zip(FIELDS, values))


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def common(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The provenance of several runs: of each field the value, or all values that it has."""
    found = {name: sorted({run[name] for run in runs}) for name in FIELDS}
    return {
        name: values[0] if len(values) == 1 else ', '.join(map(str, values))
        for name, values in found.items()
    }


def _processor() -> str:
    """The name of the CPU, or of its architecture where the system does not tell more."""
    cpuinfo = pathlib.Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return next(names, platform.machine())


def _commit() -> str:
    here = pathlib.Path(__file__).parent

    def git(*command):
        return subprocess.run(['git', *command], cwd=here, capture_output=True, text=True)

    # An installation may lie in a repository of its user's.
    ours = git('ls-files', '--error-unmatch', pathlib.Path(__file__).name)
    head = git('rev-parse', '--short', 'HEAD')
    if ours.returncode or head.returncode:
        return 'unknown'
    changed = git('status', '--porcelain', '--untracked-files=no', '--', ':/*.py').stdout
    return head.stdout.strip() + ('+' if changed else '')
