"""The commands that an installation has: `lcn-train` is `python -m experiments.train`, and so on.

The binaries are the package `experiments`, beside this one in the repository. A wheel has the same
files as `lcn_jax/experiments` (`setup.py` says why); here they get their name back. Also
`python -m lcn_jax.commands train`, and commands as tasks of a cluster.
"""

import importlib.util
import pathlib
import signal
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

# The exit status of a command that a signal stopped: EX_TEMPFAIL of sysexits.h, for the same
# command may succeed later.
STOPPED = 75


def main() -> None:
    """Runs the binary that the name of the command says."""
    name = pathlib.Path(sys.argv[0]).stem.removeprefix('lcn-').replace('-', '_')
    here = pathlib.Path(__file__).parent
    folder = next(f for f in (here / 'experiments', here.parent / 'experiments') if f.is_dir())
    spec = importlib.util.spec_from_file_location(
        'experiments', folder / '__init__.py', submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules['experiments'] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules['experiments'])
    sys.path.insert(0, str(pathlib.Path.cwd()))  # of modules of one's own, as with python -m
    binary = importlib.import_module(f'experiments.{name}')
    sys.modules['__main__'].__doc__ = binary.__doc__  # what --help prints
    flags.adopt_module_key_flags(binary)
    importlib.import_module('experiments.common.cli').run(binary.main)


class Task:
    """A command as a task of submitit, which calls it in a process of its own.

    SIGTERM, before a preemption or the time limit, lets the command save what it did; then the task
    goes into the queue again.
    """

    def __init__(self, command: Sequence[str]):
        self._command = list(command)

    def __call__(self) -> None:
        queue_again: Any = signal.getsignal(signal.SIGTERM)  # submitit's
        sys.argv = self._command
        try:
            main()
        except SystemExit as end:
            if end.code == STOPPED:
                queue_again(signal.SIGTERM, None)
            if end.code:
                raise RuntimeError(f'the command ended with status {end.code}') from end

    def checkpoint(self) -> Any:
        """What submitit calls when the task is to go into the queue again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


if __name__ == '__main__':
    del sys.argv[0]
    main()
