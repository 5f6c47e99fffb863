"""Resuming changes nothing, and refuses what would."""

import json
import shutil
import sys
from typing import Any, NamedTuple

import flax.struct
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_runs
from absl import flags
from absl.testing import flagsaver

from experiments import evaluate
from lcn_jax.errors import UsageError
from lcn_jax.training import checkpoint

STEPS = 50

pytestmark = pytest.mark.slow  # all start from one run


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    return tiny_runs.one_epoch(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def uninterrupted(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('uninterrupted')
    tiny_runs.train(config, str(workdir))
    return workdir


def test_reading_a_run_warns_of_nothing(uninterrupted, caplog):
    with checkpoint.Checkpoints(str(uninterrupted), read_only=True) as checkpoints:
        assert checkpoints.find('latest') == STEPS
    assert caplog.records == []


class Crash(Exception):
    pass


def crash_at(step, then=lambda: None):
    def report(record):
        if record['step'] >= step:
            then()
            raise Crash

    return report


@pytest.fixture(scope='module')
def crashed_once(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('crashed')
    with pytest.raises(Crash):
        tiny_runs.train(config, str(workdir), crash_at(28))
    assert checkpoints_in(workdir) == {20, 25}
    return workdir


@pytest.fixture
def crashed(crashed_once, tmp_path):
    """A workdir with checkpoints of steps 20 and 25 and a record of step 28."""
    return shutil.copytree(crashed_once, tmp_path / 'crashed')


def checkpoints_in(workdir):
    return {int(path.name) for path in (workdir / 'checkpoints').iterdir()}


def test_resumed_is_uninterrupted(config, uninterrupted, crashed):
    reported = []
    result = tiny_runs.train(config, str(crashed), reported.append)
    tiny_runs.assert_same(crashed, uninterrupted)
    steps = [record['step'] for record in reported]
    assert steps == [record['step'] for record in tiny_runs.records(crashed)]
    assert steps == [*range(4, STEPS, 4), STEPS]
    assert result['step'] == STEPS and result['parameters'] > 0
    again = tiny_runs.train(config, str(crashed))
    assert again == result


def test_cut_off_record_is_written_again(config, uninterrupted, crashed):
    metrics = crashed / 'metrics.jsonl'
    metrics.write_text(metrics.read_text()[:-30])
    tiny_runs.train(config, str(crashed))
    tiny_runs.assert_same(crashed, uninterrupted)


def test_seconds_add_up(config, crashed):
    tiny_runs.train(config, str(crashed))
    lines = (crashed / 'metrics.jsonl').read_text().splitlines()
    seconds = [json.loads(line)['seconds'] for line in lines]
    assert seconds == sorted(seconds)


def test_another_config_is_refused_and_names_the_fields(config, crashed):
    before = (crashed / 'config.json').read_text(), tiny_runs.records(crashed)
    other = config.copy_and_resolve_references()
    other.seed, other.sleep.hebbian.gamma = 3, 0.5
    other.workers, other.checkpoint_every = 3, 10  # these may change
    with pytest.raises(UsageError) as error:
        tiny_runs.train(other, str(crashed))
    assert 'seed is 0 there, 3 here' in str(error.value)
    assert 'sleep.hebbian.gamma is 1e-05 there, 0.5 here' in str(error.value)
    assert 'workers' not in str(error.value) and 'checkpoint_every' not in str(error.value)
    assert before == ((crashed / 'config.json').read_text(), tiny_runs.records(crashed))


def test_what_changes_no_result_may_change(config, crashed):
    other = config.copy_and_resolve_references()
    other.workers, other.checkpoint_every, other.data_dir, other.tensorboard = 3, 11, '/', True
    with checkpoint.claim(str(crashed), other):
        pass
    assert checkpoint.read_config(str(crashed)).checkpoint_every == 11


def test_without_a_checkpoint_the_config_may_change(config, uninterrupted, tmp_path):
    other = config.copy_and_resolve_references()
    other.seed = 5
    with pytest.raises(Crash):
        tiny_runs.train(other, str(tmp_path), crash_at(4))
    assert not checkpoints_in(tmp_path)
    tiny_runs.train(config, str(tmp_path))
    tiny_runs.assert_same(tmp_path, uninterrupted)


def test_a_place_that_cannot_be_written_is_one_line(config, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UsageError, match=r'cannot write .*file.*check the path') as error:
        tiny_runs.train(config, str(tmp_path / 'file'))
    assert '\n' not in str(error.value)


def largest(folder):
    return max((p for p in folder.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(folder):
    with open(largest(folder), 'r+b') as file:
        file.truncate(largest(folder).stat().st_size // 2)


# Orbax forgets a future when reading fails.
orbax_forgets = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

DAMAGES = {
    'truncated': truncate,
    'emptied': lambda folder: largest(folder).write_bytes(b''),
    'data missing': lambda folder: largest(folder).unlink(),
    'manifest missing': lambda folder: (folder / 'snapshot/manifest.ocdbt').unlink(),
    'metadata missing': lambda folder: (folder / 'snapshot/_METADATA').unlink(),
    'item missing': lambda folder: (folder / 'snapshot').rename(folder.parent.parent / 'moved'),
}


@orbax_forgets
@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_checkpoint_falls_back_to_the_one_before(config, uninterrupted, crashed, damage):
    folder = crashed / 'checkpoints/25'
    DAMAGES[damage](folder)
    with pytest.warns(UserWarning, match=rf'{folder} cannot be read .*Going back to step 20\.'):
        tiny_runs.train(config, str(crashed))
    tiny_runs.assert_same(crashed, uninterrupted)


@orbax_forgets
def test_if_all_are_damaged_nothing_is_deleted(config, crashed):
    for step in (20, 25):
        truncate(crashed / f'checkpoints/{step}')
    before = tiny_runs.records(crashed)
    with pytest.raises(
        UsageError, match=r'none of the checkpoints .* can be read: delete'
    ) as error:
        tiny_runs.train(config, str(crashed))
    assert '\n' not in str(error.value)
    assert checkpoints_in(crashed) == {20, 25}
    assert tiny_runs.records(crashed) == before


@flax.struct.dataclass
class StateOfVersion01:
    """Its optimizer kept the kernels after the last sleep, if sleeps took full steps."""

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any


class AfterSleep(NamedTuple):
    after_sleep: Any


def save_as_version_0_1(folder, snapshot):
    state = snapshot.state
    opt_state = (state.opt_state, AfterSleep(state.last_sleep))
    if not state.last_sleep:
        opt_state = state.opt_state
    old = StateOfVersion01(state.step, state.params, state.batch_stats, opt_state)
    handlers = {'snapshot': ocp.PyTreeCheckpointHandler(use_compression=False)}
    options = ocp.CheckpointManagerOptions(best_fn=lambda metrics: metrics['top1'])
    with ocp.CheckpointManager(folder, item_handlers=handlers, options=options) as manager:
        item = ocp.args.PyTreeSave(snapshot.replace(state=old))
        args = ocp.args.Composite(snapshot=item)
        manager.save(int(state.step), args=args, metrics={'top1': -1.0}, force=True)


@pytest.mark.parametrize('full_step', [True, False])
def test_a_checkpoint_of_version_0_1_goes_on(config, uninterrupted, crashed, tmp_path, full_step):
    """Between two sleeps, so that what is kept of the last one matters."""
    now, old = crashed, tmp_path / 'old'
    if not full_step:
        config = config.copy_and_resolve_references()
        config.sleep.full_step = False
        uninterrupted, now = tmp_path / 'uninterrupted', tmp_path / 'now'
        tiny_runs.train(config, str(uninterrupted))
        with pytest.raises(Crash):
            tiny_runs.train(config, str(now), crash_at(28))
    shutil.copytree(now, old, ignore=shutil.ignore_patterns('checkpoints'))
    with checkpoint.Checkpoints(str(now), read_only=True) as checkpoints:
        snapshot = checkpoints.restore(25, tiny_runs.experiment(config).shapes)
    save_as_version_0_1(old / 'checkpoints', snapshot)
    again = tiny_runs.snapshot(old)
    assert jax.tree.structure(again.state) == jax.tree.structure(snapshot.state)
    jax.tree.map(np.testing.assert_array_equal, again.state, snapshot.state)
    if full_step:
        kernel = snapshot.state.params['stem_conv']['kernel']
        assert np.abs(again.state.last_sleep['stem_conv']['kernel'] - kernel).max() > 1e-4
    tiny_runs.train(config, str(old))
    tiny_runs.assert_same(old, uninterrupted)


def test_keeps_the_latest_and_the_best(config, tmp_path):
    accuracies = {70: 0.25, 75: 0.5, 80: 0.25}
    run = tmp_path / 'run'
    with pytest.raises(Crash):
        tiny_runs.train(config, str(run), crash_at(8))
    snapshot = tiny_runs.snapshot(run)
    with checkpoint.Checkpoints(str(tmp_path)) as checkpoints:
        for step in range(65, 105, 5):
            accuracy = accuracies.get(step, checkpoint.NOT_EVALUATED)
            checkpoints.save(step, snapshot.replace(seconds=step), accuracy)
        assert checkpoints.find('best') == 75
    for _ in range(2):  # reopened, too
        with checkpoint.Checkpoints(str(tmp_path)) as checkpoints:
            assert checkpoints_in(tmp_path) == {75, 95, 100}
            assert checkpoints.find('best') == 75
            assert checkpoints.find('latest') == 100
            assert checkpoints.latest(tiny_runs.experiment(config).shapes).seconds == 100
            assert checkpoints.find('95') == 95
            latest = r"no checkpoint '96' .* latest, best, or one of 75, 95, 100"
            with pytest.raises(UsageError, match=latest):
                checkpoints.find('96')


def run_evaluate(capsys, **values):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(**values):
        evaluate.main([])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize('which', ['latest', 'best', str(STEPS)])
def test_evaluates_as_training_did(uninterrupted, capsys, which):
    metrics = run_evaluate(capsys, workdir=str(uninterrupted), checkpoint=which)
    logged = tiny_runs.records(uninterrupted)[-1]
    assert set(metrics) == {'step', 'test_loss', 'test_top1', 'test_top5'}
    assert metrics == {name: logged[name] for name in metrics}


def test_evaluates_where_the_devices_cannot_share_the_batches_of_training(
    uninterrupted, capsys, tmp_path
):
    shutil.copytree(uninterrupted, tmp_path / 'run')
    path = tmp_path / 'run/config.json'
    path.write_text(path.read_text().replace('"batch_size": 24', '"batch_size": 21'))
    metrics = run_evaluate(capsys, workdir=str(tmp_path / 'run'), checkpoint='latest')
    expected = run_evaluate(capsys, workdir=str(uninterrupted), checkpoint='latest')
    assert metrics == pytest.approx(expected, rel=1e-5)


def test_evaluate_touches_nothing_and_says_what_is_missing(crashed, capsys, tmp_path):
    (crashed / 'checkpoints/30.orbax-checkpoint-tmp').mkdir()  # somebody writes it
    with pytest.raises(UsageError, match='has been evaluated'):
        run_evaluate(capsys, workdir=str(crashed), checkpoint='best')
    metrics = run_evaluate(capsys, workdir=str(crashed), checkpoint='20')
    assert metrics['step'] == 20
    assert (crashed / 'checkpoints/30.orbax-checkpoint-tmp').exists()
    with pytest.raises(UsageError, match='holds no run'):
        run_evaluate(capsys, workdir=str(tmp_path / 'nothing'), checkpoint='latest')


def test_another_number_of_devices_resumes_and_tensorboard_has_each_record_once(
    config, crashed, tmp_path
):
    """From 8 devices here to one; batch statistics are those of another number of devices then."""
    pytest.importorskip('tensorboardX')
    before = tiny_runs.records(crashed)[:6]
    starter = tiny_runs.Starter('resident', config.data_dir)
    starter.fork(crashed, '--config.epochs=1', '--config.tensorboard', devices=1)
    records = tiny_runs.records(crashed)
    assert records[:6] == before
    assert [record['step'] for record in records] == [*range(4, STEPS, 4), STEPS]
    assert tiny_runs.snapshot(crashed).state.step == STEPS
    expected = [
        (record['step'], name, pytest.approx(value))
        for record in records
        for name, value in record.items()
        if name != 'step'
    ]
    written = [scalar for scalar in scalars(crashed / 'tensorboard') if scalar[1] != 'seconds']
    assert written == expected


def scalars(folder):
    """(step, name, value) of all that TensorBoard finds."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in folder.iterdir():
        content = path.read_bytes()
        while content:  # length (8 bytes), its checksum (4), an event, its checksum (4)
            length = int.from_bytes(content[:8], 'little')
            event = Event.FromString(content[12 : 12 + length])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            content = content[16 + length :]
    return found


def test_tensorboard_that_is_not_installed_is_named(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorboardX', None)
    other = config.copy_and_resolve_references()
    other.tensorboard = True
    with pytest.raises(UsageError, match=r"pip install 'lcn_jax\[tensorboard\]'"):
        tiny_runs.train(other, str(tmp_path))
