"""Everything that the README and the other pages tell people to run, import and open exists."""

import ast
import importlib.util
import pkgutil
import re
import shlex

import jax
import numpy as np
import pytest
from imports_test import ROOMS
from tiny_runs import ROOT

from lcn_jax.data import specs
from lcn_jax.training import config as configs

PAGES = [
    *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md')),
    *sorted((ROOT / 'experiments/results').rglob('README.md')),
    *sorted((ROOT / 'docs').glob('*.md')),
]
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in PAGES}
ALL = '\n'.join(TEXTS.values())
FENCED = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
CONFIGS = {
    path.stem
    for path in (ROOT / 'experiments/configs').glob('[a-z]*.py')
    if 'def get_config(' in path.read_text()
}
SHARED_FLAGS = '\n'.join(path.read_text() for path in (ROOT / 'experiments/common').glob('*.py'))


def blocks(language: str) -> list[str]:
    return [text for found, text in FENCED.findall(ALL) if found == language]


def inline() -> list[str]:
    return re.findall(r'`([^`\n]+)`', FENCED.sub('', ALL))


def commands() -> list[str]:
    """Lines to type into a shell, with continued lines joined and comments dropped."""
    lines = '\n'.join(blocks('') + inline()).replace('\\\n', ' ').splitlines()
    return [line.partition(' #')[0].strip() for line in lines]


PYTHON_COMMANDS = [line for line in commands() if line.startswith('python -m ')]
FIELDS = set(configs.default().to_dict())


def known_field(path: str) -> bool:
    """'sleep.every' -> whether a config has it; under a rule of one's own anything goes."""
    value = configs.default()
    for name in path.split('.'):
        if not hasattr(value, 'keys') or name not in value:
            return False
        value = value[name]
    return True


def test_the_parsers_find_something():
    assert len(PYTHON_COMMANDS) >= 2 and len(blocks('python')) >= 3 and len(CONFIGS) >= 5


def test_make_targets_exist():
    makefile = (ROOT / 'Makefile').read_text()
    named = {line.split()[1] for line in commands() if re.match(r'make [a-z]', line)}
    assert {'demo', 'test'} <= named
    for target in named:
        assert re.search(rf'^{target}:', makefile, re.MULTILINE), f'no make target {target}'


@pytest.mark.parametrize('command', PYTHON_COMMANDS)
def test_modules_flags_configs_and_fields_exist(command):
    module, *flags = shlex.split(command)[2:]
    spec = importlib.util.find_spec(module)
    assert spec is not None, f'no module {module}'
    if not module.startswith('experiments.'):
        return
    source = (ROOT / f'{module.replace(".", "/")}.py').read_text()
    for name in (
        'trained',
        'cli.define_config',
        'many.run',
    ):  # flags that are defined for several binaries
        source += SHARED_FLAGS if name in source else ''
    for flag in flags:
        name, _, value = flag.removeprefix('--').partition('=')
        if name.startswith('config.'):
            assert known_field(name.removeprefix('config.')), f'no field {name}'
        elif name != 'help':
            assert re.search(rf"DEFINE_\w+\(\s*'{name}'", source), f'{module} has no flag --{name}'
        if name == 'config':
            path, _, kind = value.partition(':')
            assert (ROOT / path).exists() or path in CONFIGS, f'no config file {path}'
            assert kind in ('', *configs.KINDS), f'no kind {kind}'


def test_config_fields_named_in_the_text_exist():
    named = set(re.findall(r'^(?:--)?config\.([\w.]+)', '\n'.join(inline()), re.MULTILINE))
    assert {'pools.border'} <= named
    assert not [field for field in named if not known_field(field)]


def test_the_table_of_kinds_is_complete():
    _, _, table = TEXTS['docs/training.md'].partition('| kind | connectivity |')
    rows = re.findall(r'^\| `(\w+)`', table.partition('\n\n')[0], re.MULTILINE)
    assert sorted(rows) == sorted(configs.KINDS)


def test_all_datasets_and_configs_are_named():
    _, _, table = TEXTS['docs/data.md'].partition('| `--dataset` |')
    assert set(re.findall(r'^\| `(\w+)` ', table, re.MULTILINE)) >= set(specs.SPECS)
    assert set(re.findall(r'experiments/configs/(\w+)\.py', TEXTS['docs/training.md'])) == CONFIGS


def test_the_map_has_all_rooms_in_their_order_and_the_files_beside_them():
    _, _, text = TEXTS['CONTRIBUTING.md'].partition('| room |')
    table, beside, *_ = text.split('\n\n')
    assert re.findall(r'^\| `([\w/]+)/`', table, re.MULTILINE) == list(ROOMS)
    files = (ROOT / 'lcn_jax').glob('[a-z]*.py')
    assert not [path for path in files if f'`{path.stem}`' not in beside]


@pytest.mark.parametrize('name', TEXTS)
def test_links_and_files_exist(name):
    here = (ROOT / name).parent
    linked = [here / path for path in re.findall(r'\]\((?!https?:|#)([^)#]+)[^)]*\)', TEXTS[name])]
    text = re.sub(r'https?://\S+', '', FENCED.sub('', TEXTS[name]))
    named = re.findall(r'\b(?:lcn_jax|experiments|tests)/[\w./-]*\w/?', text)
    missing = [path for path in [*linked, *named] if not (ROOT / path).exists()]
    assert not missing


def test_names_of_the_package_exist():
    """`lcn_jax.sleep.pools` in the text, or `lcn_jax.grids` in a block, can be imported."""
    named = set(re.findall(r'\blcn_jax(?:\.\w+)+', '\n'.join([*inline(), *blocks('python')])))
    assert {'lcn_jax.grids', 'lcn_jax.nnx.LocalConv'} <= named
    for name in named:
        pkgutil.resolve_name(name)


def test_the_api_reference_has_all_public_names():
    import lcn_jax

    text = (ROOT / 'site/api.md').read_text()
    documented = set(re.findall(r'^::: lcn_jax\.([\w.]+)$', text, re.MULTILINE))
    for name in lcn_jax.__all__:
        module = lcn_jax._MODULES[name]
        assert {module, f'{module}.{name}'} & documented, name


def test_a_locally_connected_layer_in_another_model_sleeps_as_written():
    (block,) = (block for block in blocks('python') if 'class YourNet' in block)
    images = jax.random.normal(jax.random.key(1), (2, 6, 6, 3))
    after = {'key': jax.random.key(0), 'images': images}
    exec(compile(block, 'README.md', 'exec'), after)
    assert after['logits'].shape == (2, 10)
    before = after['YourNet']().init(after['key'], images)['params']
    assert (after['params']['Conv_0']['kernel'] == before['Conv_0']['kernel']).all()
    kernel, awake = (params['LocalConv_0']['kernel'] for params in (after['params'], before))
    assert (awake[0, 0] != awake[3, 3]).all()
    np.testing.assert_allclose(kernel[0, 0], kernel[3, 3], atol=1e-6)  # 3 apart: one pool


@pytest.mark.parametrize('block', blocks('python'))
def test_python_compiles_imports_and_sets_fields_that_exist(block):
    tree = ast.parse(block)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), 'README.md', 'exec'), {})
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith('config.'):
            field = ast.unparse(node).removeprefix('config.')
            assert known_field(field), f'no field config.{field}'
