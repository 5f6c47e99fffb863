"""The commands that an installation has: `lcn-train` is `python -m experiments.train`, and so on.

The binaries are the package `experiments`, beside this one in the repository. A wheel has the same
files as `lcn_jax/experiments` (`setup.py` says why); here they get their name back.
"""

import importlib.util
import pathlib
import sys

from absl import flags


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
