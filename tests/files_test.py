"""Files are whole or missing, JSON is strict, and write errors are one line."""

import errno
import json
import math
import os
import re
import sys

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lcn_jax import files
from lcn_jax.errors import UsageError


def test_strict_json_keeps_infinities():
    value = {'a': [1.5, math.inf, -math.inf], 'b': {'c': (2, None)}, 'd': 'text'}
    text = files.to_json(value)
    json.loads(text, parse_constant=lambda name: pytest.fail(f'{name} is not JSON'))
    assert files.from_json(text) == value | {'b': {'c': [2, None]}}
    assert math.isnan(files.from_json(files.to_json([math.nan]))[0])


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), KeyboardInterrupt()])
def test_a_file_is_replaced_as_a_whole(error, tmp_path):
    path = tmp_path / 'file'
    files.write_text(path, 'old')
    expected = UsageError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as raised, files.replacing(path) as file:
        file.write(b'ne')
        raise error
    if expected is UsageError:
        assert re.search(r'^cannot write .*No space left.*make room there.*$', str(raised.value))
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['file']


def test_two_processes_with_one_number_replace_a_file(tmp_path):
    """As on two hosts: each replaces it with what is its own."""
    path = tmp_path / 'file'
    with files.replacing(path) as one, files.replacing(path) as other:
        one.write(b'one')
        other.write(b'other')
    assert path.read_text() == 'one'  # which was the last to end
    assert os.listdir(tmp_path) == ['file']


def test_arrays_are_what_was_written(tmp_path):
    arrays = {'a/b': np.arange(6.0).reshape(2, 3), 'text': np.array('é')}
    files.write_arrays(tmp_path / 'file', arrays)  # whose name stays, whatever it ends with
    with np.load(tmp_path / 'file', allow_pickle=False) as found:
        assert {name: found[name].tolist() for name in found} == {
            name: array.tolist() for name, array in arrays.items()
        }
    assert os.listdir(tmp_path) == ['file']


def test_only_write_errors_become_one_line(tmp_path):
    tensorstore = 'OUT_OF_RANGE: Error writing "a/0": File too large [os_error_code=\'27\']\nmore'
    for e in (PermissionError(13, 'Permission denied'), ValueError(tensorstore)):
        with (
            pytest.raises(UsageError, match=r'cannot write .*(room|permissions) .*place'),
            files.writing(tmp_path),
        ):
            raise e
    for bug in (ValueError('not enough values to unpack'), TypeError('bug'), KeyError('bug')):
        with pytest.raises(type(bug)) as error, files.writing(tmp_path):
            raise bug
        assert error.value is bug


def test_a_folder_that_cannot_be_made_is_named_in_one_line(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UsageError, match=r'cannot write .*file/folder.* same command again\.$'):
        files.make_folder(tmp_path / 'file' / 'folder')


def test_an_empty_path_is_not_the_current_folder():
    with pytest.raises(UsageError, match='a path is empty'):
        files.make_folder('')


def test_a_link_to_nowhere_is_one_line(tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'nowhere')
    with pytest.raises(UsageError, match=r'link is a link to .*nowhere, which does not exist'):
        files.make_folder(tmp_path / 'link')
    (tmp_path / 'nowhere').mkdir()
    files.make_folder(tmp_path / 'link' / 'folder')
    assert (tmp_path / 'nowhere' / 'folder').is_dir()


@pytest.mark.parametrize(
    'number, remedy',
    [
        (errno.EDQUOT, 'make room there'),
        (errno.EROFS, 'change its permissions'),
        (errno.ESTALE, 'check the path and the disk'),
    ],
)
def test_the_remedy_fits_the_error(number, remedy):
    error = OSError(number, os.strerror(number))
    tensorstore = ValueError(f"Error writing 'a': no [os_error_code='{number}'] b")
    for raised in (error, tensorstore):
        with pytest.raises(UsageError, match=f'{remedy} or choose another'), files.writing('a'):
            raise raised
    with pytest.raises(UsageError, match=f'cannot read a .*{remedy}, and'), files.reading('a'):
        raise error


@pytest.fixture
def bucket():
    """An object store in memory stands in for Google's."""

    class Store(MemoryFileSystem):
        protocol = 'gcs', 'gs'
        store, pseudo_dirs = {}, ['']

        @classmethod
        def _strip_protocol(cls, path):
            return MemoryFileSystem._strip_protocol(path.removeprefix('gs://'))

        def open(self, path, mode='rb', **options):
            if 'a' in mode:
                raise NotImplementedError('object stores cannot append')
            return super().open(path, mode, **options)

    files.epath.backend.fsspec_backend._get_filesystem.cache_clear()
    fsspec.register_implementation('gcs', Store, clobber=True)
    yield 'gs://bucket'
    fsspec.register_implementation('gcs', 'gcsfs.GCSFileSystem', clobber=True)
    files.epath.backend.fsspec_backend._get_filesystem.cache_clear()


def test_urls_are_written_to(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = files.make_folder(f'{bucket}/run')
    files.write_text(folder / 'log', 'one\n')
    files.append_text(folder / 'log', 'two\n')
    assert files.epath.Path(f'{bucket}/run/log').read_text() == 'one\ntwo\n'
    assert [path.name for path in folder.iterdir()] == ['log']
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('url', ['s3://bucket/run', 'ftp://host/run'])
def test_a_url_without_a_package_for_it_is_one_line(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, 's3fs', None)  # cannot be imported
    with pytest.raises(UsageError, match=f'cannot open {url}.*Install') as error:
        files.make_folder(url)
    assert '\n' not in str(error.value)
    assert os.listdir(tmp_path) == []
