"""Many runs in one folder: who takes which, what becomes of those that fail, and who waits."""

import contextlib
import errno
import os
import signal
import sys
from types import SimpleNamespace

import pytest
import tiny_config
from absl import flags
from absl.testing import flagsaver

from experiments.common import choices, cluster, many, runs, workers
from lcn_jax import commands
from lcn_jax.errors import Diverged, InUse, Stopped, UsageError
from lcn_jax.files import to_json
from lcn_jax.training import ownership

RATES = 0.1, 0.2


@pytest.fixture
def few(tmp_path):
    """Two configs with two seeds each: a-0, a-1, b-0, b-1."""
    configs = {}
    for letter, rate in zip('ab', RATES):
        for seed in range(2):
            config = configs[f'{letter}-{seed}'] = tiny_config.get_config('conv')
            config.seed, config.learning_rate = seed, rate
    return runs.Runs(str(tmp_path), configs)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing is trained, and time passes when a test says so."""
    experiment = SimpleNamespace(create=lambda config: SimpleNamespace(config=None))
    monkeypatch.setattr(runs, 'Experiment', experiment)
    monkeypatch.setattr(runs, 'train', lambda *arguments: {'test_top1': 0.5, 'seconds': 1.0})
    monkeypatch.setattr(workers.time, 'sleep', lambda seconds: pytest.fail('it waits'))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def end(few, name, file=runs.DONE, **content):
    os.makedirs(few.workdir(name), exist_ok=True)
    with open(os.path.join(few.workdir(name), file), 'w') as opened:
        opened.write(to_json({'test_top1': 0.5, 'seconds': 1.0} | content))


def work(few, leaves=False):
    """Returns the names of the runs that it trained, in their order."""
    trained = []

    def show(name):
        trained.append(name)

    workers.work(few, show, workers.Announcer(few), leaves)
    return trained


def test_one_worker_trains_all_and_says_so(few, capsys):
    assert work(few) == list(few.configs)
    assert few.left() == [] and work(few) == []
    first, *_, last = capsys.readouterr().out.splitlines()[:4]
    assert first == '1/4  a-0  accuracy 50.0%  1 s' and last.startswith('4/4  b-1  ')
    done = runs.read_done(few.workdir('a-0'))
    assert done['test_top1'] == 0.5 and done['jax']


def test_a_worker_takes_what_needs_no_new_programs(few):
    """Then what nobody else has begun, then the first that is free."""

    def taken(last):
        return few.taken(few.left(), last)

    with taken(None) as first, taken(None) as second:
        assert (first, second) == ('a-0', 'b-0')
        with taken('b-0') as third, taken('b-0') as fourth, taken(None) as none:
            assert (third, fourth, none) == ('b-1', 'a-1', None)
    end(few, 'a-0')
    with taken(None) as name:  # a dead worker's: the folders are there, their owner is not
        assert name == 'a-1'
    with few.taken(['a-0'], None) as none:  # which another process has just ended
        assert none is None


def test_what_fails_is_noted_and_the_others_go_on(few, monkeypatch, capsys):
    def train(config, *others):
        if config.learning_rate == RATES[0] and config.seed == 0:
            raise Diverged('training diverged: at step 3.')
        return {'test_top1': 0.5, 'seconds': 1.0}

    reports = []
    monkeypatch.setattr(runs, 'train', train)
    with (
        flagsaver.flagsaver(jobs=1),
        pytest.raises(UsageError, match=r'1 of 4 runs failed: a-0\. The same command tries'),
    ):
        many.run(few, lambda out: str(reports.append(few.failed())))
    assert reports == [['a-0']]
    assert '1/4  a-0  failed: training diverged: at step 3.\n' in capsys.readouterr().out
    monkeypatch.setattr(runs, 'train', lambda *arguments: {'test_top1': 0.5, 'seconds': 1.0})
    with flagsaver.flagsaver(jobs=1):  # is tried again
        many.run(few, lambda out: str(reports.append(few.failed())))
    assert reports == [['a-0'], []]


@pytest.mark.parametrize('worker', [True, False])
def test_if_all_fail_there_is_no_report(few, worker, monkeypatch):
    def train(*arguments):
        raise UsageError('there are no images.')

    monkeypatch.setattr(runs, 'train', train)
    one_line = pytest.raises(UsageError, match=r'no run succeeded; a-0: there are no images\.')
    with (
        flagsaver.flagsaver(jobs=1, worker=worker),
        contextlib.nullcontext() if worker else one_line,
    ):
        many.run(few, lambda out: pytest.fail('a report'))
    assert few.failed() == list(few.configs)


def test_a_worker_leaves_only_if_another_waits(few, monkeypatch):
    others = contextlib.ExitStack()
    for name in few.configs:
        others.enter_context(ownership.owned(few.workdir(name)))
    with ownership.owned(few.out):
        assert work(few, leaves=True) == []

    slept = []

    def dies(seconds):  # while this one waits, which nobody else then has to
        with pytest.raises(InUse), ownership.owned(few.out):
            pytest.fail('nobody waits')
        slept.append(seconds)
        if len(slept) == 3:
            others.close()

    monkeypatch.setattr(workers.time, 'sleep', dies)
    assert sorted(work(few, leaves=True)) == sorted(few.configs)
    assert len(slept) == 3


def test_a_command_of_a_user_waits_for_the_others(few, monkeypatch):
    for name in ('a-1', 'b-0', 'b-1'):
        end(few, name)
    monkeypatch.setattr(workers.time, 'sleep', lambda seconds: end(few, 'a-0'))
    with ownership.owned(few.workdir('a-0')), ownership.owned(few.out):
        assert work(few) == []


def test_a_signal_ends_the_wait(few, monkeypatch):
    monkeypatch.setattr(workers.time, 'sleep', lambda seconds: signal.raise_signal(signal.SIGTERM))
    with contextlib.ExitStack() as others, pytest.raises(Stopped):
        for name in few.configs:
            others.enter_context(ownership.owned(few.workdir(name)))
        work(few)


def test_what_cannot_be_trained_is_refused_before_anything_is(few):
    few.check()
    os.makedirs(few.workdir('b-0'))
    other = few.configs['b-0'].copy_and_resolve_references()
    other.epochs = 9
    with open(os.path.join(few.workdir('b-0'), 'config.json'), 'w') as file:
        file.write(other.to_json_best_effort())
    few.check()  # nothing has been trained there
    end(few, 'b-0')
    with pytest.raises(UsageError, match=r'b-0 holds .*epochs is 9 there, 1 here'):
        many.run(few, lambda out: pytest.fail('a report'))
    few.configs['a-0'].learning_rate = -1.0
    with pytest.raises(UsageError, match=r'config\.learning_rate is -1\.0; it must be'):
        many.run(few, lambda out: pytest.fail('a report'))
    assert not os.path.exists(few.workdir('a-0'))


def test_several_workers_need_locks(few, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(ownership.fcntl, 'flock', flock)
    for flag in ({'jobs': 2}, {'worker': True}, {'cluster': 'local'}):
        with flagsaver.flagsaver(**flag), pytest.raises(UsageError, match='has no locks, by which'):
            many.run(few, lambda out: pytest.fail('a report'))
    with flagsaver.flagsaver(jobs=1), pytest.warns(UserWarning, match='has no locks'):
        many.run(few, lambda out: '')
    monkeypatch.undo()
    with ownership.owned(few.out):
        assert ownership.has_locks(few.out)
    assert ownership.has_locks(few.out)


@pytest.mark.parametrize(
    ('jobs', 'expected'),
    [
        (1, [[0, 1, 2, 4, 6]]),
        (2, [[0, 1], [2, 4, 6]]),
        (5, [[0], [1], [2], [4], [6]]),
        (7, [[0], [1], [2], [4], [6], [0], [1]]),
    ],
)
def test_cores_are_divided(jobs, expected, monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: {0, 1, 2, 4, 6}, raising=False)
    monkeypatch.setattr(os, 'sched_setaffinity', None, raising=False)
    assert workers.shares(jobs) == expected
    monkeypatch.delattr(os, 'sched_setaffinity')
    assert workers.shares(jobs) == [[]] * jobs


def test_two_jobs_are_for_cpus(monkeypatch):
    """As JAX sees them, which is not asked: it would take the memory of a GPU."""
    monkeypatch.setattr(many, 'cores', lambda: [0, 1, 5])
    monkeypatch.delenv('JAX_PLATFORMS', raising=False)
    monkeypatch.setattr(many.metadata, 'entry_points', lambda group: [])
    monkeypatch.setattr(many.importlib.util, 'find_spec', lambda name: None)
    assert many.default_jobs() == 2
    monkeypatch.setattr(many.metadata, 'entry_points', lambda group: ['xla_cuda12'])
    assert many.default_jobs() == 1
    monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
    assert many.default_jobs() == 2


def test_progress_is_that_of_the_last_whole_record(few):
    assert few.progress('a-0') == 0
    os.makedirs(few.workdir('a-0'))
    path = os.path.join(few.workdir('a-0'), 'metrics.jsonl')
    for content, part in (('', 0), ('{"epoch": 0.25', 0), ('{"epoch": 0.5}\n{"epo', 0.5)):
        with open(path, 'w') as file:
            file.write(content)
        assert few.progress('a-0') == part


# ---- Values to try. ------------------------------------------------------------------------------


def test_all_combinations_of_values_have_names_and_the_types_of_their_fields():
    config = tiny_config.get_config('lc_mean')
    config.model.rule = 'x'
    found = choices.combinations(
        config,
        [
            'config.learning_rate=1e-3,1',
            'config.model.stage_sizes=(1,),(1, 2)',
            'config.sleep.full_step=True',
            'config.model.rule=3',
        ],
    )
    names = [f'learning_rate={rate}+stage_sizes=_{sizes}_+full_step=True+rule=3'
             for rate in ('0.001', '1') for sizes in ('1_', '1_2')]  # fmt: skip
    assert list(found) == names
    last = found[names[-1]]
    assert (last.learning_rate, last.model.stage_sizes) == (1.0, (1, 2))
    assert last.sleep.full_step is True and last.model.rule == '3'
    assert config.learning_rate == 5e-3  # as it was
    one = choices.combinations(config, ['config.sleep.rule=mean', 'config.model.rule=y'])
    assert list(one) == ['sleep.rule=mean+model.rule=y']
    assert list(choices.combinations(config, [])) == ['run']


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('learning_rate=1', r'--over=learning_rate=1 must be config\.FIELD=VALUE'),
        ('config.learning_rate', 'must be config'),
        ('config.seed=1,2', '--seeds is the number'),
        ('config.epochs=many', r'config\.epochs=many: .*cannot be casted'),
        ('config.learning_rate=1e-3,0.001', 'has learning_rate=0.001 twice'),
        ('config.epochs=1 config.epochs=2', r'has config\.epochs twice'),
    ],
)
def test_a_wrong_choice_is_one_line(text, message):
    with pytest.raises(UsageError, match=message) as error:
        choices.combinations(tiny_config.get_config('lc'), text.split())
    assert '\n' not in str(error.value)


# ---- A cluster. ----------------------------------------------------------------------------------


def test_a_task_that_was_stopped_goes_into_the_queue_again(monkeypatch):
    monkeypatch.setattr(commands.sys, 'argv', [])
    queued = []
    former = signal.signal(signal.SIGTERM, lambda *arguments: queued.append(arguments))
    try:
        for status in (0, commands.STOPPED, 1):

            def main(status=status):
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                raise SystemExit(status)

            monkeypatch.setattr(commands, 'main', main)
            task = commands.Task(['table', '--worker'])
            with contextlib.nullcontext() if status == 0 else pytest.raises(RuntimeError):
                task()
            assert commands.sys.argv == ['table', '--worker']
            assert len(queued) == (status != 0) and signal.getsignal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, lambda *arguments: queued.append(arguments))
    finally:
        signal.signal(signal.SIGTERM, former)


def test_what_a_cluster_needs_is_said_in_one_line(few, monkeypatch):
    monkeypatch.setitem(sys.modules, 'submitit', None)
    with flagsaver.flagsaver(cluster='slurm'):
        with pytest.raises(UsageError, match=r"needs submitit: pip install 'lcn_jax\[slurm\]'"):
            many.run(few, lambda out: pytest.fail('a report'))
        with flagsaver.flagsaver(slurm_options=['mem']), pytest.raises(UsageError, match="'mem'"):
            cluster.options()
