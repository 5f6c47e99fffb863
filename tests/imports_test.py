"""Which files import which: one way, from the layer and its pools to the binaries."""

import ast
import subprocess
import sys

import pytest
from tiny_runs import ROOT

ORDER = ('heart', 'data', 'training', 'brain', 'integrations', 'experiments')
FILES = sorted(
    path.relative_to(ROOT)
    for folder in ('lcn_jax', 'experiments')
    for path in (ROOT / folder).rglob('*.py')
    if 'notebooks' not in path.parts
)
CORE = (
    'lcn_jax.local', 'lcn_jax.resnet', 'lcn_jax.sleep', 'lcn_jax.snr', 'lcn_jax.convert',
    'lcn_jax.nnx', 'lcn_jax.interop',
    'lcn_jax.training.wake', 'lcn_jax.training.sleep_step', 'lcn_jax.training.train',
)  # fmt: skip
NOT_NEEDED_BY_THE_CORE = (
    'array_record', 'grain', 'matplotlib', 'orbax.checkpoint', 'PIL', 'sklearn',
    'tensorflow_datasets',
)  # fmt: skip


def group(module: str) -> str | None:
    """The part of the project that a module belongs to; None if it is not one of ours."""
    package, *rest = module.split('.')
    if package == 'experiments':
        return 'experiments'
    if package != 'lcn_jax':
        return None
    return rest[0] if rest and rest[0] in ORDER else 'heart'


def imported(path) -> set[str]:
    """What a file imports, anywhere in it: `from package import name` counts as package.name."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return found


@pytest.mark.parametrize('path', FILES, ids=str)
def test_imports_go_one_way(path):
    if str(path) == 'lcn_jax/__init__.py':
        return  # offers names of all parts, and imports them when they are used
    own = group('.'.join(path.with_suffix('').parts))
    groups = {group(module) for module in imported(path)} - {None}
    later = [name for name in groups if ORDER.index(name) > ORDER.index(own)]
    assert not later, f'{path} belongs to {own} and must not import from {later}'


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
    from lcn_jax import local, sleep
    from lcn_jax.training import train

    assert lcn_jax.conv_local is local.conv_local
    assert lcn_jax.share is sleep.share
    assert lcn_jax.RULES['circuit'] is sleep.circuit
    assert lcn_jax.train_and_evaluate is train.train_and_evaluate
    assert {name for name in lcn_jax.__all__ if getattr(lcn_jax, name, None) is None} == set()
    with pytest.raises(AttributeError, match="no attribute 'dream'"):
        _ = lcn_jax.dream
