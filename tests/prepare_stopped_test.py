"""Preparing a dataset where something is: data that is there, a full disk, a signal."""

import pytest
import tiny_archives
import tiny_runs
from tiny_archives import write, write_folder

from lcn_jax.data import sources
from lcn_jax.data.prepare import prepare
from lcn_jax.errors import UsageError

pytestmark = pytest.mark.usefixtures('no_tensorflow')


def test_digits_need_no_source_and_are_prepared_once(tmp_path):
    assert prepare('digits', str(tmp_path)) == {'train': 1200, 'test': 597}
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.array_record*')}
    assert len(written) == 2
    assert prepare('digits', str(tmp_path)) == {'train': 1200, 'test': 597}
    assert written == {path: path.stat().st_mtime_ns for path in written}


def test_a_dataset_that_tensorflow_wrote_is_left_alone(tmp_path):
    prepare('digits', str(tmp_path))
    info = next(tmp_path.rglob('dataset_info.json'))
    info.write_text(info.read_text().replace('array_record', 'tfrecord'))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    with pytest.raises(UsageError, match=r'digits/1\.0\.0 holds tfrecord files') as error:
        prepare('digits', str(tmp_path))
    assert 'another --data_dir' in str(error.value)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}


def test_an_empty_folder_is_not_a_dataset(tmp_path):
    (tmp_path / 'digits' / '1.0.0').mkdir(parents=True)
    with pytest.raises(UsageError, match=r'digits/1\.0\.0 is not a whole dataset: delete it'):
        prepare('digits', str(tmp_path))


def test_a_data_dir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UsageError, match=r'cannot write \S+/file/data'):
        prepare('digits', str(tmp_path / 'file' / 'data'))


FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # no file can be longer
"""


def prepare_tiny_imagenet(data_dir, source, before):
    """What became of a process of the binary."""
    options = '--dataset=tiny_imagenet', f'--data_dir={data_dir}', f'--source={source}'
    return tiny_runs.call('prepare', *options, before=before)


def test_a_full_disk_is_one_line_and_leaves_no_files(tmp_path):
    source = write_folder(tmp_path / 'in', tiny_archives.tiny_imagenet_files())
    assert sum(path.stat().st_size for path in source.rglob('*.JPEG')) > 30_000
    data_dir = tmp_path / 'data'
    done = prepare_tiny_imagenet(data_dir, source, FULL)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f'error: cannot write {data_dir}/tiny_imagenet/1.0.0 (')
    assert 'File too large' in last
    assert [path for path in data_dir.rglob('*') if path.is_file()] == []


KILLED = """
import os
from lcn_jax.data.builders import encoded

whole, seen = encoded.stored, []

def stored(*arguments):
    seen.append(arguments)
    return whole(*arguments) if len(seen) < 14 else os._exit(9)  # all of train is written

encoded.stored = stored
"""


def test_a_killed_attempt_is_not_a_dataset(tmp_path):
    source = write(tmp_path / 'tiny.zip', tiny_archives.tiny_imagenet_files(), 'zip')
    data_dir = tmp_path / 'data'
    assert prepare_tiny_imagenet(data_dir, source, KILLED).returncode == 9
    assert list(data_dir.rglob('*train.array_record*'))
    with pytest.raises(UsageError, match='has not been prepared'):
        sources.Source('tiny_imagenet', str(data_dir)).split('train')
    counts = prepare('tiny_imagenet', str(data_dir), str(source))
    assert counts == {'train': 12, 'validation': 3}


TERMINATED = """
import os, signal
from lcn_jax.data.builders import encoded
encoded.stored = lambda *arguments: os.kill(os.getpid(), signal.SIGTERM)
"""


def test_sigterm_leaves_nothing_behind(tmp_path):
    source = write(tmp_path / 'tiny.zip', tiny_archives.tiny_imagenet_files(), 'zip')
    done = prepare_tiny_imagenet(tmp_path / 'data', source, TERMINATED)
    assert done.returncode == 143, done.stderr
    assert 'Traceback' not in done.stderr
    assert [path for path in (tmp_path / 'data').rglob('*') if '1.0.0' in path.name] == []
