"""What becomes of records: one's own loggers, curves, the page that explains them; and traces."""

import os
import pathlib
import re
import sys
import time

import jax
import pytest
import tiny_runs

from experiments.common import programs
from experiments.reports import curves
from lcn_jax.errors import UsageError

reported = []


def collect(config, workdir):
    reported.clear()
    reported.append((config.seed, workdir))
    return reported.append


def nothing(config):
    """Takes no workdir."""


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run of 50 steps that sleeps, its config, and its workdir; with a trace and a report."""
    config = tiny_runs.one_epoch(tmp_path_factory.mktemp('data'))
    config.report, config.profile = f'{__name__}:collect', 5
    workdir = tmp_path_factory.mktemp('run')
    tiny_runs.train(config, workdir)
    return config, workdir


def test_a_report_gets_every_record(run):
    config, workdir = run
    (seed, folder), *records = reported
    assert (seed, folder) == (config.seed, str(workdir))
    assert [r['step'] for r in records] == [r['step'] for r in tiny_runs.records(workdir)]
    assert {r['total_steps'] for r in records} == {50}


@pytest.mark.parametrize(
    'name, message',
    [
        ('collect', r"unknown report 'collect'.*; known: or 'module:name' for a report"),
        (f'{__name__}:nothing', 'cannot take 2 arguments'),
    ],
)
def test_what_is_no_report_is_refused(run, name, message, tmp_path):
    config = run[0].copy_and_resolve_references()
    config.report = name
    with pytest.raises(UsageError, match=message):
        tiny_runs.train(config, tmp_path)


def test_a_trace_is_written_and_changes_nothing(run, tmp_path):
    config, workdir = run
    (trace,) = (workdir / 'profile').rglob('*.xplane.pb')
    assert trace.stat().st_size > 0
    plain = config.copy_and_resolve_references()
    plain.report, plain.profile = '', 0
    tiny_runs.train(plain, tmp_path)
    tiny_runs.assert_same(workdir, tmp_path)
    assert not (tmp_path / 'profile').exists()


def test_the_page_explains_every_field(run):
    page = (tiny_runs.ROOT / 'docs/logging.md').read_text()
    table = page.partition('| field |')[2].partition('\n\n')[0]
    explained = {name for row in table.splitlines() for name in re.findall(r'`(\w+)`', row[:90])}
    assert set().union(*tiny_runs.records(run[1]), {'seconds'}) <= explained
    assert {'validation_top1', 'penalty'} <= explained
    code = (tiny_runs.ROOT / 'examples/log_to_wandb.py').read_text().partition('\n\n')[2]
    assert code in page


@pytest.mark.parametrize('package', ['wandb', 'mlflow'])
@pytest.mark.slow
def test_examples_of_loggers(run, package, tmp_path, monkeypatch):
    pytest.importorskip(package)
    monkeypatch.syspath_prepend(tiny_runs.ROOT / 'examples')
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    config = run[0].copy_and_resolve_references()
    config.report = f'log_to_{package}:log'
    tiny_runs.train(config, tmp_path)
    if package == 'wandb':
        sys.modules['wandb'].finish()
        assert list(tmp_path.glob('wandb/offline-run-*/run-*.wandb'))
    else:
        sys.modules['mlflow'].end_run()
        (written,) = tmp_path.glob('mlruns/*/*/metrics/train_loss')
        steps = [int(line.split()[2]) for line in written.read_text().splitlines()]
        assert steps == [record['step'] for record in tiny_runs.records(tmp_path)]


def test_a_band_is_over_the_points_that_all_seeds_have():
    first = [{'step': 1, 'a': 2.0, 'b': 3.0}, {'step': 2, 'a': None}, {'step': 3, 'b': 5.0}]
    second = [{'step': 1, 'a': 4.0, 'b': 1.0}]
    seeds = [curves.points(records, ('a', 'b')) for records in (first, second)]
    assert seeds[0] == [(1, 2.0), (1, 3.0), (3, 5.0)]
    assert curves.band(seeds) == [(1, 3.0, 2.0, 4.0), (1, 2.0, 1.0, 3.0)]


@pytest.mark.slow
def test_curves_are_drawn(run, tmp_path):
    out = tmp_path / 'made/curves.png'
    done = tiny_runs.call('curves', f'--workdirs={run[1]}', f'--out={out}')
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b'\x89PNG')


def test_programs_are_kept_in_the_cache_of_the_user(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    programs.share()  # the variable is set, and counts
    assert jax.config.jax_compilation_cache_dir == before
    try:
        monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
        monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file' / 'cache'))
        (tmp_path / 'file').write_text('')
        programs.share()  # cannot be made
        assert 'JAX_COMPILATION_CACHE_DIR' not in os.environ
        monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
        programs.share()
        folder = pathlib.Path(jax.config.jax_compilation_cache_dir)
        assert str(folder).startswith(str(tmp_path / 'lcn_jax/programs-'))
        for days in (29, 31):
            (folder / f'{days}').write_text('')
            os.utime(folder / f'{days}', (time.time() - days * 24 * 3600,) * 2)
        monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
        programs.share()
        assert [program.name for program in folder.iterdir()] == ['29']
    finally:
        jax.config.update('jax_compilation_cache_dir', before)
