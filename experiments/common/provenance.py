"""The commit, the machine and the versions that are recorded beside every result."""

import os
import pathlib
import platform
import subprocess

import jax


def provenance() -> dict[str, str | int | None]:
    """commit ('+' if files have changed), device, devices, cpu, cpus, jax, python, xla_flags."""
    return {
        'commit': _commit(),
        'device': jax.devices()[0].device_kind,
        'devices': jax.device_count(),
        'cpu': _processor(),
        'cpus': os.cpu_count(),
        'jax': jax.__version__,
        'python': platform.python_version(),
        'xla_flags': os.environ.get('XLA_FLAGS', ''),
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
