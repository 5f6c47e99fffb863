"""The commit, machine and versions that are recorded beside every result."""

import os
import pathlib
import platform
import subprocess

import jax


def provenance() -> dict[str, str | int | None]:
    """commit (with '+' if files differ from it), device, devices, cpus, jax, python."""
    return {
        'commit': _commit(),
        'device': jax.devices()[0].device_kind,
        'devices': jax.device_count(),
        'cpus': os.cpu_count(),
        'jax': jax.__version__,
        'python': platform.python_version(),
    }


def _commit() -> str:
    here = pathlib.Path(__file__).parent

    def git(*command):
        return subprocess.run(['git', *command], cwd=here, capture_output=True, text=True)

    head = git('rev-parse', '--short', 'HEAD')
    if head.returncode:
        return 'unknown'
    changed = git('status', '--porcelain', '--untracked-files=no', '--', ':/*.py').stdout
    return head.stdout.strip() + ('+' if changed else '')
