"""The C++ library: built once, again if it is damaged, and never another user's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lcn_jax.layer.backends.native import library


@pytest.fixture
def built():
    if not library.available():
        pytest.skip(library.describe())


@pytest.fixture
def cache(built, monkeypatch, tmp_path):
    """An empty folder for the library, and the commands that fill it; they write 'library'."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    run, commands = library._run, []

    def count(command):
        if '-o' not in command:
            return run(command)
        commands.append(command)
        Path(command[-1]).write_bytes(b'library')
        return ''

    monkeypatch.setattr(library, '_run', count)
    return tmp_path / 'lcn_jax', commands


@pytest.mark.parametrize(
    ('variables', 'reason'),
    [
        ({'LCN_NATIVE': '0'}, 'LCN_NATIVE=0'),
        ({'CXX': 'no-such-compiler'}, 'no-such-compiler'),
        ({'CXX': 'c++ "'}, 'No closing quotation'),
        ({'CXX': f'{sys.executable} -c "raise SystemExit(1)"'}, 'failed'),
    ],
    ids=['switched off', 'no compiler', 'malformed compiler', 'compiler fails'],
)
def test_without_the_library_one_line_says_why(monkeypatch, tmp_path, variables, reason):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.delenv('LCN_NATIVE', raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    loaded, line = library._load.__wrapped__()
    assert not loaded
    assert line.startswith('no native kernel: ') and reason in line and '\n' not in line


def test_a_library_is_built_once(cache):
    folder, commands = cache
    path = library._build()
    assert path.read_bytes() == b'library' and library._build() == path
    assert [path] == list(folder.iterdir()) and len(commands) == 1


@pytest.mark.parametrize('content', [b'', b'libr', b'garbage'], ids=['empty', 'cut', 'garbage'])
def test_a_damaged_library_is_built_anew(cache, content):
    """Loading a cut one would end the process by SIGBUS."""
    folder, commands = cache
    path = library._build()
    path.write_bytes(content)
    assert library._build() == path and path.read_bytes() == b'library'
    assert [path] == list(folder.iterdir()) and len(commands) == 2


def test_what_belongs_to_another_user_is_not_loaded(cache, monkeypatch):
    folder, commands = cache
    path = library._build()
    own = library._is_own
    monkeypatch.setattr(library, '_is_own', lambda other: other != path and own(other))
    assert library._build() == path and len(commands) == 2  # replaced by one of this user's
    monkeypatch.setattr(library, '_is_own', lambda other: other != folder and own(other))
    loaded, line = library._load.__wrapped__()
    assert not loaded and f'{folder} belongs to another user' in line


def test_who_owns_a_file(tmp_path, monkeypatch):
    assert library._is_own(tmp_path)
    monkeypatch.setattr(os, 'getuid', lambda: tmp_path.stat().st_uid + 1)
    assert not library._is_own(tmp_path)


@pytest.mark.slow
def test_a_real_library_that_was_cut_is_built_anew_and_without_utf_8(built, tmp_path, monkeypatch):
    """In a process of its own, since a library is loaded once, and in the C locale.

    Without optimising, which takes a compiler most of its time.
    """
    monkeypatch.setattr(library, '_FLAGS', [flag for flag in library._FLAGS if flag != '-O3'])
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'whole'))
    program = (
        'from lcn_jax.layer.backends.native import library; '
        f'library._FLAGS = {library._FLAGS}; print(library.describe())'
    )
    environment = os.environ | {
        'XDG_CACHE_HOME': str(tmp_path), 'LC_ALL': 'C', 'PYTHONUTF8': '0',
        'PYTHONCOERCECLOCALE': '0',
    }  # fmt: skip

    def describe():
        run = [sys.executable, '-c', program]
        return subprocess.run(run, env=environment, check=True, capture_output=True, text=True)

    (tmp_path / 'lcn_jax').mkdir()
    path = library._build()
    cut = shutil.copy(path, tmp_path / 'lcn_jax')
    os.truncate(cut, path.stat().st_size // 2)
    description = describe().stdout.strip()
    # The same source elsewhere may become other bytes, and so have another name.
    assert description.startswith(f'native kernel: {tmp_path / "lcn_jax"}')
    loaded = Path(description.removeprefix('native kernel: '))
    assert loaded.stat().st_size > 0.9 * path.stat().st_size
