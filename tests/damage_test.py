"""Small files that a crash has damaged: nothing good is lost, and one line says what to do."""

import json
import os
import shutil

import pytest
import tiny_runs

from experiments.reports import table as table_report
from lcn_jax import files
from lcn_jax.data.sources import Source
from lcn_jax.errors import UsageError
from lcn_jax.training import checkpoint, metrics

RECORDS = [b'{"step": 1, "loss": 0.5}', b'{"step": 2}', b'{"step": 3}']


def warned(recorder):
    return [str(warning.message) for warning in recorder]


@pytest.mark.parametrize(
    'line', [b'{"step": 2, "lo', b'\xff\xfe\x00', b'5', b'{"epoch": 2}', b'{"step": "2"}', b'null']
)
def test_a_damaged_line_is_left_out_and_named(line, tmp_path, recwarn):
    path = tmp_path / 'metrics.jsonl'
    path.write_bytes(b'\n'.join([RECORDS[0], line, b'', *RECORDS[1:], b'']))
    assert metrics.read(path) == [{'step': 1, 'loss': 0.5}, {'step': 2}, {'step': 3}]
    (message,) = warned(recwarn)
    assert message.startswith(f'{path} is damaged in lines [2]: ') and '\n' not in message


@pytest.mark.parametrize('end', [b'{"ste', b'{"step": 4', b'\x00\x00', b'{"step"\n', b'\n\n', b''])
def test_a_last_line_that_is_cut_off_is_normal(end, tmp_path, recwarn):
    path = tmp_path / 'metrics.jsonl'
    path.write_bytes(b'\n'.join([*RECORDS, end]))
    assert [record['step'] for record in metrics.read(path)] == [1, 2, 3]
    assert not warned(recwarn)


def test_no_log_and_an_empty_one_have_no_records(tmp_path):
    (tmp_path / 'empty').write_text('')
    assert metrics.read(tmp_path / 'empty') == metrics.read(tmp_path / 'none') == []


@pytest.mark.parametrize('content', [b'', b'{"epochs": 1', b'5', b'\xff'])
def test_damaged_json_is_one_line(content, tmp_path):
    path = tmp_path / 'file.json'
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf'{path} is damaged .*: delete it\.$') as error:
        files.read_json(path, 'delete it')
    assert '\n' not in str(error.value) and path.read_bytes() == content
    with pytest.raises(UsageError, match=r'cannot read .*none .*check the path'):
        files.read_json(tmp_path / 'none', 'delete it')


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """And its name before `write_text` returns: the order in which a crash cannot tear it."""
    events, fsync, replace = [], os.fsync, os.replace

    def noted(descriptor):
        events.append(('sync', os.readlink(f'/proc/self/fd/{descriptor}')))
        fsync(descriptor)

    def renamed(source, target, **options):
        events.append(('rename', str(target)))
        replace(source, target, **options)

    monkeypatch.setattr(os, 'fsync', noted)
    monkeypatch.setattr(os, 'replace', renamed)
    path = str(tmp_path / 'file')
    files.write_text(path, '×')
    (first, part), second, third = events
    assert first == 'sync' and part.startswith(path) and part != path
    assert second == ('rename', path) and third == ('sync', str(tmp_path))
    assert (tmp_path / 'file').read_bytes() == '×'.encode()


# ---- Runs. ---------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    return tiny_runs.one_epoch(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('finished')
    tiny_runs.train(config, workdir)
    return workdir


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / 'run')


def damage_line(path, number):
    lines = path.read_text().splitlines()
    lines[number] = lines[number][:20]
    path.write_text('\n'.join(lines) + '\n')


@pytest.mark.slow
def test_a_run_keeps_the_records_after_a_damaged_one(config, finished, run):
    damage_line(run / 'metrics.jsonl', 1)
    shutil.rmtree(run / 'checkpoints' / '50')  # one step is trained again
    expected = tiny_runs.records(finished)
    with pytest.warns(UserWarning, match=r'metrics.jsonl is damaged in lines \[2\]'):
        result = tiny_runs.train(config, run)
    assert result['step'] == 50
    assert tiny_runs.records(run) == [expected[0], *expected[2:]]


@pytest.mark.slow
def test_a_finished_run_without_its_last_record_says_so(config, run):
    damage_line(run / 'metrics.jsonl', -1)
    before = (run / 'metrics.jsonl').read_text()
    with pytest.raises(UsageError, match=r'last step is not in .*metrics.jsonl: evaluate'):
        tiny_runs.train(config, run)
    assert (run / 'metrics.jsonl').read_text().splitlines() == before.splitlines()[:-1]


@pytest.mark.slow
def test_a_damaged_config_is_written_again_once_it_is_deleted(config, finished, run):
    path = run / 'config.json'
    whole = path.read_text()
    path.write_text(whole[:300])
    for use in (lambda: tiny_runs.train(config, run), lambda: checkpoint.read_config(str(run))):
        with pytest.raises(UsageError, match=rf'{path} is damaged .*: delete it, and the command'):
            use()
        assert path.read_text() == whole[:300]
    path.unlink()
    tiny_runs.train(config, run)
    assert path.read_text() == whole
    tiny_runs.assert_same(run, finished)


def test_a_table_names_a_damaged_result(tmp_path):
    workdir = tmp_path / 'digits-0' / 'conv-0'
    workdir.mkdir(parents=True)
    for name in ('config.json', 'done.json'):
        (workdir / name).write_text('{}')
    for name in ('config.json', 'done.json'):
        (workdir / name).write_text('')
        with pytest.raises(UsageError, match=rf'{workdir}/{name} is damaged .*delete it'):
            table_report.read(str(tmp_path))
        (workdir / name).write_text(json.dumps({'test_top1': 0.5}))
    assert [run['test_top1'] for run in table_report.read(str(tmp_path))] == [0.5]


# ---- Datasets. -----------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    """With digits and their statistics, from a run."""
    folder = tmp_path_factory.mktemp('prepared')
    assert Source('digits', str(folder)).pixel_statistics()[0].shape == (1,)
    return folder


@pytest.fixture
def dataset(data_dir, tmp_path):
    return shutil.copytree(data_dir, tmp_path / 'data') / 'digits' / '1.0.0'


@pytest.mark.parametrize('part', [0, 0.6])
@pytest.mark.parametrize('name', ['dataset_info.json', 'features.json'])
def test_a_damaged_description_of_a_dataset_is_one_line(name, part, dataset, tmp_path):
    content = (dataset / name).read_bytes()
    (dataset / name).write_bytes(content[: int(part * len(content))])
    message = rf'the description of digits in {tmp_path}/data is damaged .*: delete .*prepare'
    with pytest.raises(UsageError, match=message) as error:
        _ = Source('digits', str(tmp_path / 'data')).builder
    assert '\n' not in str(error.value)
    (dataset / name).write_bytes(content)
    assert len(Source('digits', str(tmp_path / 'data')).split('train')) == 1200


@pytest.mark.parametrize('part', [0, 0.6])
def test_damaged_pixel_statistics_are_one_line(part, data_dir, dataset, tmp_path):
    path = dataset / 'pixel_statistics.json'
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(UsageError, match=rf'{path} is damaged .*: delete it, and it is computed'):
        Source('digits', str(tmp_path / 'data')).pixel_statistics()
    path.unlink()
    Source('digits', str(tmp_path / 'data')).pixel_statistics()
    assert path.read_bytes() == content


# ---- What may not be read. -----------------------------------------------------------------------


FORBIDDEN = (
    'data/digits',
    'data/digits/1.0.0',
    'data/digits/1.0.0/dataset_info.json',
    'run/checkpoints',
    'run/checkpoints/50',
    'run/config.json',
    'run/metrics.jsonl',
)


@pytest.mark.slow
def test_what_may_not_be_read_is_one_line_and_stays(dataset, run, tmp_path):
    """So a run that may read everything again goes on."""

    def contents():
        """Of all files, but for those that each start writes."""
        paths = set(tmp_path.rglob('*')) - {run / 'lock'}
        kept = {path for path in paths if path.is_file()} - {run / 'config.json'}
        return paths, {path: path.read_bytes() for path in kept}

    before = contents()
    starter = tiny_runs.Starter('resident', str(tmp_path / 'data'))
    for forbidden in FORBIDDEN:
        path = tmp_path / forbidden
        mode = path.stat().st_mode
        try:
            path.chmod(0)
            output = starter.fork(run, '--config.epochs=1', before=tiny_runs.AS_A_USER, status=1)
        finally:
            path.chmod(mode)
        error = output.splitlines()[-1]
        assert error.startswith('error: cannot read ') and str(path) in error
        assert 'Traceback' not in output
        assert contents() == before, forbidden
    assert starter.fork(run, '--config.epochs=1')
