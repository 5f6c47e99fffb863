"""Loading the user's own code by name, and errors in that code."""

import math

import pytest

from lcn_jax import plugins
from lcn_jax.errors import UsageError


def test_an_attribute_of_a_module():
    assert plugins.load('math:sqrt', 'rule', []) is math.sqrt
    assert plugins.load('os.path:join', 'rule', []).__name__ == 'join'


@pytest.mark.parametrize(
    'name, reason',
    [
        ('mean', 'it names no module and attribute'),
        ('', 'it names no module and attribute'),
        ('math:', 'it names no module and attribute'),
        (':sqrt', 'it names no module and attribute'),
        ('./rules:f', 'it names no module and attribute'),
        ('math:dream', 'math has no dream'),
        ('no_such_module:f', "No module named 'no_such_module'"),
        ('os.no_such:f', "No module named 'os.no_such'"),
    ],
)
def test_a_missing_module_or_attribute_is_one_line(name, reason):
    with pytest.raises(UsageError) as error:
        plugins.load(name, 'sharing rule', ['a', 'b'])
    assert str(error.value).startswith(f'unknown sharing rule {name!r} ({reason}')
    assert 'known: a, b, or ' in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(
    'code, mistake',
    [('import no_such_library', ModuleNotFoundError), ('import math\nmath.dream', AttributeError)],
)
def test_errors_of_the_module_itself_pass_through(code, mistake, tmp_path, monkeypatch):
    name = f'own_{mistake.__name__}'
    (tmp_path / f'{name}.py').write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(mistake):
        plugins.load(f'{name}:f', 'sharing rule', [])
