"""Which files import which: one way, room by room, from the layer to the binaries."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest
from tiny_runs import ROOT

ROOMS = (
    'lcn_jax/layer/backends', 'lcn_jax/layer', 'lcn_jax/sleep', 'lcn_jax/learning',
    'lcn_jax/networks', 'lcn_jax/convert', 'lcn_jax/data', 'lcn_jax/training', 'lcn_jax/trained',
    'lcn_jax/brain', 'lcn_jax/integrations', 'experiments',
)  # fmt: skip
# Files with another place than their room: below all rooms, or above those of lcn_jax.
BELOW = (
    'lcn_jax/errors.py', 'lcn_jax/files.py', 'lcn_jax/plugins.py',
    'lcn_jax/layer/arguments.py', 'lcn_jax/layer/grid.py',
)  # fmt: skip
FACES = ('lcn_jax/nnx.py', 'lcn_jax/__init__.py', 'lcn_jax/commands.py')
ORDER = ('below', *ROOMS[:-1], 'faces', ROOMS[-1])

FILES = sorted(
    path.relative_to(ROOT)
    for folder in ('lcn_jax', 'experiments')
    for path in (ROOT / folder).rglob('*.py')
    if 'notebooks' not in path.parts
)
CORE = (
    'lcn_jax.convert', 'lcn_jax.layer.linen', 'lcn_jax.layer.low_rank', 'lcn_jax.layer.norm',
    'lcn_jax.learning.feedback', 'lcn_jax.learning.penalties', 'lcn_jax.networks.resnet',
    'lcn_jax.nnx', 'lcn_jax.sleep', 'lcn_jax.sleep.similarity',
    'lcn_jax.training.wake', 'lcn_jax.training.sleep_step', 'lcn_jax.training.train',
)  # fmt: skip
NOT_NEEDED_BY_THE_CORE = (
    'array_record', 'grain', 'matplotlib', 'orbax.checkpoint', 'PIL', 'sklearn',
    'tensorflow_datasets',
)  # fmt: skip


def place(path: pathlib.Path) -> int:
    """The number in ORDER of the group that a file belongs to."""
    if str(path) in BELOW:
        return ORDER.index('below')
    if str(path) in FACES:
        return ORDER.index('faces')
    (room, *_) = (room for room in ROOMS if path.is_relative_to(room))
    return ORDER.index(room)


def names_in(tree: ast.AST) -> set[str]:
    """What is imported anywhere in it: `from package import name` counts as package.name."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return found


def imported(path: pathlib.Path) -> set[str]:
    return names_in(ast.parse((ROOT / path).read_text()))


def file_of(name: str) -> pathlib.Path | None:
    """The file of a module, or of the module that has the name; None if it is not one of ours."""
    path = pathlib.Path(*name.split('.'))
    for file in (path.with_suffix('.py'), path / '__init__.py'):
        if (ROOT / file).is_file():
            return file
    return file_of(name.rpartition('.')[0]) if '.' in name else None


@pytest.mark.parametrize('path', FILES, ids=str)
def test_imports_go_one_way(path):
    files = {file_of(name) for name in imported(path)} - {None}
    later = [str(file) for file in files if place(file) > place(path)]
    assert not later, f'{path} belongs to {ORDER[place(path)]} and must not import {later}'


def test_no_file_imports_itself_through_others():
    """Imports that only annotations need do not run, and do not count."""

    class Running(ast.NodeTransformer):
        def visit_If(self, node):
            return None if ast.unparse(node.test) == 'TYPE_CHECKING' else self.generic_visit(node)

    graph = {}
    for path in FILES:
        running = Running().visit(ast.parse((ROOT / path).read_text()))
        graph[path] = {file_of(name) for name in names_in(running)} - {None}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # or it raises a CycleError
    assert set(order) == set(FILES)


def test_only_one_file_says_pmap():
    users = [path for path in FILES if 'jax.pmap(' in (ROOT / path).read_text()]
    assert [str(path) for path in users] == ['lcn_jax/training/parallel.py']


@pytest.mark.parametrize('path', [p for p in FILES if p.parts[1] in ('common', 'reports')], ids=str)
def test_what_binaries_share_imports_no_binary(path):
    shared = ('common', 'configs', 'reports')
    ours = [name.split('.') for name in imported(path) if name.startswith('experiments.')]
    assert all(parts[1] in shared for parts in ours), ours


def not_imported_by(modules: str, unwanted: tuple[str, ...]) -> None:
    code = f'import sys, {modules}; print([name for name in {unwanted!r} if name in sys.modules])'
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == '[]'


def test_the_package_alone_does_not_import_jax():
    not_imported_by('lcn_jax, lcn_jax.data.streaming', ('jax',))


@pytest.mark.slow
def test_the_core_needs_few_packages():
    not_imported_by(', '.join(CORE), NOT_NEEDED_BY_THE_CORE)


def test_the_public_names_are_those_of_their_modules():
    import lcn_jax
    from lcn_jax import sleep
    from lcn_jax.layer import functional
    from lcn_jax.training import train

    assert lcn_jax.conv_local is functional.conv_local
    assert lcn_jax.share is sleep.share
    assert lcn_jax.RULES['circuit'] is sleep.circuit
    assert lcn_jax.train_and_evaluate is train.train_and_evaluate
    assert {name for name in lcn_jax.__all__ if getattr(lcn_jax, name, None) is None} == set()
    with pytest.raises(AttributeError, match="no attribute 'dream'"):
        _ = lcn_jax.dream
