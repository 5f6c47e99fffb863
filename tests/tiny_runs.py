"""Runs that take a second, started as users start them, in processes that may be killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from lcn_jax.training import checkpoint
from lcn_jax.training import config as configs
from lcn_jax.training.experiment import Experiment

ROOT = Path(__file__).parent.parent


def get_config(kind: str):
    """'resident': 100 steps; 'streaming': 48 steps. Checkpoints come between records."""
    config = configs.default()
    config.model.stage_sizes, config.model.width = (1,), 2
    config.translations.padding = 1
    config.image_size = 8
    config.log_every, config.checkpoint_every = 4, 5
    config.sleep.every = 7
    config.sleep.hebbian.steps = config.sleep.hebbian.patterns_per_step = 3
    if kind == 'resident':
        config.dataset, config.batch_size, config.epochs = 'digits', 24, 2
    elif kind == 'streaming':
        config.dataset, config.batch_size, config.epochs = 'imagenet2012', 8, 8
        config.mean, config.std = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
        config.workers = 0
    return configs.apply_kind(config, 'lc_hebbian')


def environment(devices: int, cache: Path) -> dict[str, str]:
    """For a new process with so many devices that finds compiled programs in `cache`."""
    return os.environ | {
        'PYTHONPATH': str(ROOT),
        'JAX_PLATFORMS': 'cpu',
        'JAX_NUM_CPU_DEVICES': str(devices),
        'JAX_COMPILATION_CACHE_DIR': str(cache),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    }


class Starter:
    """Starts experiments.train on the tiny configs."""

    def __init__(self, kind: str, data_dir: str, cache: Path):
        self._kind, self._data_dir, self._cache = kind, data_dir, cache

    def start(self, workdir: Path, *flags: str, devices=1, before='', **popen) -> subprocess.Popen:
        """`before`: Python statements to run first."""
        program = f'{before}\nimport runpy\nrunpy.run_module("experiments.train", None, "__main__")'
        return subprocess.Popen(
            [
                sys.executable, '-c', program, f'--config={__file__}:{self._kind}',
                f'--config.data_dir={self._data_dir}', f'--workdir={workdir}', *flags,
            ],
            env=environment(devices, self._cache),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **popen,
        )  # fmt: skip

    def finish(self, workdir: Path, *flags: str, status=0, **options) -> str:
        """Runs to the end; returns what was printed."""
        process = self.start(workdir, *flags, **options)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == status, output
        return output


def records(workdir: Path) -> list[dict]:
    """Of metrics.jsonl, without the wall-clock time, which no two runs share."""
    path = Path(workdir) / 'metrics.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if k != 'seconds'} for line in lines]


def wait_for_record(process: subprocess.Popen, workdir: Path, number: int) -> None:
    """Until metrics.jsonl has so many lines."""
    path = Path(workdir) / 'metrics.jsonl'
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b'\n') < number:
        assert process.poll() is None, process.communicate()[0]
        if time.monotonic() > deadline:
            process.kill()
            raise TimeoutError(process.communicate()[0])
        time.sleep(0.002)


def snapshot(workdir: Path, which: str = 'latest') -> checkpoint.Snapshot:
    """A checkpoint of the workdir, but for the wall-clock time."""
    shapes = Experiment.create(checkpoint.read_config(str(workdir))).shapes
    with checkpoint.Checkpoints(str(workdir), read_only=True) as checkpoints:
        return checkpoints.restore(checkpoints.find(which), shapes).replace(seconds=0)


def assert_same(workdir: Path, other: Path) -> None:
    """Records and the latest checkpoint are the same, bit for bit."""
    assert records(workdir) == records(other)
    leaves, expected = (jax.tree_util.tree_leaves_with_path(snapshot(w)) for w in (workdir, other))
    assert len(leaves) == len(expected)
    for (path, leaf), (_, value) in zip(leaves, expected):
        np.testing.assert_array_equal(leaf, value, jax.tree_util.keystr(path))
