"""The table: its statistics by hand, and the same table however often it is stopped."""

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import tiny_config
import tiny_runs

from experiments.reports import rows as known
from experiments.reports import table as table_report
from lcn_jax.files import to_json

ROOT = Path(__file__).parents[1]
CONFIG = 'tests/tiny_config.py'


def run(row, seed, accuracy, **fields):
    """A done run in which top-5 is half of the rest better."""
    return {
        'column': 'cifar100-4',
        'row': row,
        'seed': seed,
        'test_top1': accuracy,
        'test_top5': (1 + accuracy) / 2,
        'weight_snr': None,
        'seconds': 10.0 + seed,
        'commit': 'abc',
        'device': 'cpu',
        'jax': '1',
        'config': {'dataset': 'cifar100', 'epochs': 2, 'batch_size': 50, 'train_images': 500},
    } | fields


RUNS = [
    run('conv', 0, 0.90),
    run('conv', 1, 0.92),
    run('conv', 2, 0.94),
    run('lc', 0, 0.89, weight_snr=2.0, weight_deviation=0.7),
    run('lc', 1, 0.90, weight_snr=4.0, weight_deviation=0.8),
    run('lc', 2, 0.91, weight_snr=6.0, weight_deviation=0.6),
    # No conv with seed 3: it counts for the mean, not for the difference.
    run('lc_mean10', 1, 0.82, weight_snr=9.0, weight_snr_before_sleep=1.0),
    run('lc_mean10', 3, 0.80, weight_snr=9.0, weight_snr_before_sleep=2.0),
]


def test_means_and_paired_intervals_are_those_computed_by_hand():
    cells = table_report.aggregate(RUNS)['cells']['cifar100-4']
    assert list(cells) == ['conv', 'lc', 'lc_mean10']
    conv, lc, sleeping = cells.values()
    assert conv['top1']['mean'] == pytest.approx(92) and conv['top1']['std'] == pytest.approx(2)
    assert conv['weight_snr'] is None and conv['seconds'] == 11
    # Differences -1, -2, -3: standard error 1 / sqrt(3); t = 4.3027 at two degrees of freedom.
    assert lc['n'] == 3 and lc['weight_snr'] == 4
    assert lc['weight_deviation'] == pytest.approx(0.7)
    one_wide = {'half_width': pytest.approx(4.3027 / 3**0.5, abs=1e-4)}
    assert lc['top1']['by_seed'] == pytest.approx({0: 89, 1: 90, 2: 91})
    assert lc['top1']['differences']['conv'] == {'mean': pytest.approx(-2)} | one_wide
    assert conv['top1']['differences']['lc'] == {'mean': pytest.approx(2)} | one_wide
    assert lc['top5']['differences']['conv']['mean'] == pytest.approx(-1)
    assert sleeping['n'] == 2 and sleeping['top1']['mean'] == pytest.approx(81)
    assert sleeping['top1']['differences'] == {
        'conv': {'mean': pytest.approx(-10), 'half_width': None},
        'lc': {'mean': pytest.approx(-8), 'half_width': None},
    }
    assert sleeping['weight_snr'] == 1.5
    assert sleeping['weight_deviation'] is None  # not measured when these runs were made


def test_a_table_of_two_machines_is_that_of_all_their_runs():
    other = [run('conv', 0, 0.5, column='digits-0'), run('lc_reps4', 10, 0.7, commit='def')]
    halves = [json.loads(to_json(table_report.aggregate(runs))) for runs in (RUNS[::2], RUNS[1::2])]
    halves.append(table_report.aggregate(other))
    merged = table_report.merge(halves)
    assert json.loads(to_json(merged)) == json.loads(to_json(table_report.aggregate(RUNS + other)))
    assert merged['columns']['cifar100-4']['commit'] == 'abc, def'
    with pytest.raises(ValueError, match='the same seed'):
        table_report.merge([halves[0], halves[0]])


def test_a_table_may_have_no_runs_that_are_done(tmp_path):
    (tmp_path / 'digits-0/lc-0').mkdir(parents=True)
    (tmp_path / 'digits-0/lc-0/failed.json').write_text('{"reason": "it diverged."}')
    text = table_report.write(str(tmp_path))
    assert 'Failed and not in the table: digits-0/lc-0: it diverged.' in text


def test_folders_that_are_no_runs_are_left_out(tmp_path):
    for folder in ('digits-0/conv-0', 'digits-0/conv-backup', 'digits-0/other-1'):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / 'done.json').write_text('{"test_top1": 0.5}')
        (tmp_path / folder / 'config.json').write_text('{}')
    assert [run['seed'] for run in table_report.read(str(tmp_path))] == [0]


def test_old_runs_of_digits_are_the_rows_that_have_their_settings_now(tmp_path):
    for row in ('lc_mean10', 'lc_mean10_joined', 'lc_deviation3'):
        for seed, full_step in enumerate((False, True)):
            folder = tmp_path / f'digits-0/{row}-{seed}'
            folder.mkdir(parents=True)
            (folder / 'done.json').write_text('{}')
            (folder / 'config.json').write_text(json.dumps({'sleep': {'full_step': full_step}}))
    rows = {row: set() for row in known.ROWS}
    for run in table_report.read(str(tmp_path)):
        rows[run['row']].add(run['seed'])
    assert (rows['lc_mean10'], rows['lc_mean10_tiled']) == ({0}, {1})
    assert rows['lc_mean10_joined'] == rows['lc_deviation3'] == {0, 1}


def test_markdown_says_what_was_measured_and_how():
    text = table_report.markdown(table_report.aggregate(RUNS))
    lines = [line for line in text.splitlines() if line.startswith('|')]
    assert len({line.count('|') for line in lines}) == 1
    (lc,) = [line for line in lines if line.startswith('| LC |')]
    assert lc == '| LC | 90.0 ± 1.0 | −2.0 ± 2.5 |  | 95.0 ± 0.5 | −1.0 ± 1.2 |  | 3 | 0.7 | 11 |'
    (conv,) = [line for line in lines if line.startswith('| conv |')]
    assert conv.startswith('| conv | 92.0 ± 2.0 |  | +2.0 ± 2.5 | 96.0 ± 1.0 |  | +1.0 ± 1.2 | 3 |')
    assert '2 epochs of 500 images, batches of 50; commit abc; cpu, JAX 1' in text
    assert len(table_report.plot(table_report.aggregate(RUNS)).axes) == 1


def make(out, *flags, config=CONFIG, status=0, **options):
    """Runs the binary, with one job unless `flags` say otherwise; returns what it printed."""
    done = tiny_runs.call(
        'table', f'--config={config}', f'--out={out}', f'--config.data_dir={out}/../data',
        '--jobs=1', *flags, together=True, **options,
    )  # fmt: skip
    assert done.returncode == status, done.stdout
    return done.stdout


def measured(out):
    """What the table says, but for the times."""
    text = (out / 'table.json').read_text()
    report = json.loads(text, parse_constant=pytest.fail)  # as strict as others read it
    for rows in report['cells'].values():
        for cell in rows.values():
            del cell['seconds']
    return report


@pytest.mark.slow
def test_stopped_table_is_the_table(tmp_path):
    what = '--rows=conv,lc_reps4', '--seeds=2', '--paddings=0,1'
    whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
    make(whole, *what)
    assert set(measured(whole)['cells']) == {'digits-0', 'digits-1'}
    assert 'lc_reps4' not in measured(whole)['cells']['digits-0']
    assert measured(whole)['cells']['digits-1']['lc_reps4']['n'] == 2

    for action, status in (('SIGKILL', -signal.SIGKILL), ('SIGTERM', 75)):
        of_second_run = tiny_runs.at(
            r"os\.rename \('[^']*done\.json", f'os.kill(os.getpid(), signal.{action})', 2
        )
        make(stopped, *what, before=of_second_run, status=status)
    assert 0 < done(stopped) < done(whole)
    output = make(stopped, *what, '--jobs=2')
    assert sum(re.match(r'[1-6]/6  digits-[01]/\w+-[01]  ', line) is not None
               for line in output.splitlines()) == 6  # fmt: skip
    assert measured(stopped) == measured(whole)
    for workdir in whole.glob('*/*-?'):
        assert tiny_runs.records(workdir) == tiny_runs.records(stopped / workdir.relative_to(whole))

    written = {path: path.stat().st_mtime_ns for path in whole.glob('*/*/metrics.jsonl')}
    make(whole, *what)  # reuses every run
    assert written == {path: path.stat().st_mtime_ns for path in whole.glob('*/*/metrics.jsonl')}
    for folder in whole.glob('*/*/checkpoints'):  # to save room; the runs stay what they are
        shutil.rmtree(folder)
    output = make(whole, *what, '--epochs=2', status=1)
    assert 'error: ' in output and 'epochs is 1 there, 2 here' in output
    make(whole, *what)
    assert measured(stopped) == measured(whole)


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_are_in_the_table(tmp_path):
    broken = tmp_path / 'digits-0' / 'lc-0'  # its only checkpoint cannot be read
    (broken / 'checkpoints' / '5').mkdir(parents=True)
    config = tiny_config.get_config('lc')
    config.translations.padding = 0
    (broken / 'config.json').write_text(config.to_json_best_effort())
    output = make(tmp_path, '--rows=conv,lc', '--seeds=1', '--paddings=0', status=1)
    assert output.splitlines()[-1] == (
        'error: 1 of 2 runs failed: digits-0/lc-0. The same command tries them again.'
    )
    report = measured(tmp_path)
    assert list(report['cells']['digits-0']) == ['conv']
    ((workdir, reason),) = report['failed'].items()
    assert workdir == 'digits-0/lc-0' and 'none of the checkpoints' in reason
    assert (
        f'Failed and not in the table: {workdir}: {reason}' in (tmp_path / 'table.md').read_text()
    )


def done(out):
    return len(list(out.glob('*/*/done.json')))


@pytest.mark.slow
def test_a_sweep_compares_values_on_held_out_images(tmp_path):
    done = tiny_runs.call(
        'sweep', f'--config={CONFIG}:lc', f'--out={tmp_path}/out', '--jobs=1',
        f'--config.data_dir={tmp_path}/data', '--config.validation=120',
        '--over', 'config.learning_rate=5e-3,0', '--over', 'config.weight_decay=0,0.01',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = (tmp_path / 'out/comparison.md').read_text()
    assert table in done.stdout and table.startswith('|  | validation top-1 % | n |')
    report = json.loads((tmp_path / 'out/comparison.json').read_text())
    rows = report['rows']
    assert report['device'] == 'cpu' and report['commit'] != 'unknown'
    assert [row['mean'] for row in rows] == sorted([row['mean'] for row in rows], reverse=True)
    assert {row['workdirs'][0].rpartition('/')[2] for row in rows} == {
        f'learning_rate={rate}+weight_decay={decay}-0'
        for rate in ('0.005', '0') for decay in ('0', '0.01')
    }  # fmt: skip


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--rows=lc_reps5'], "unknown row 'lc_reps5'; known: conv, lc, "),
        (['--rows=lc_reps4', '--paddings=0'], 'rows with repetitions need --paddings above 0'),
        (['--config.validation=100'], 'leave out --config.validation'),
        (['--out=gs://bucket/table'], '--out=gs://bucket/table must be a local path'),
        (['--jobs=0'], '--jobs=0: 0 is not a positive integer'),
    ],
    ids=['row', 'padding', 'validation', 'url', 'jobs'],
)
@pytest.mark.slow
def test_a_mistake_is_one_line(tmp_path, flags, message):
    last = make(tmp_path, *flags, status=1).splitlines()[-1]
    assert last.startswith('error: ') and message in last


@pytest.mark.slow
def test_a_kind_in_the_config_is_one_line(tmp_path):
    last = make(tmp_path, config=f'{CONFIG}:lc', status=1).splitlines()[-1]
    assert last.startswith('error: ') and 'leave out the colon' in last


@pytest.mark.slow
def test_a_row_of_the_config_file_that_is_none_is_one_line(tmp_path):
    file = tmp_path / 'mine.py'
    file.write_text(Path(CONFIG).read_text() + "\n\nROWS = {'lc_mean11': {'momentum': 0.5}}\n")
    last = make(tmp_path, config=file, status=1).splitlines()[-1]
    assert last.startswith('error: ') and "unknown row 'lc_mean11'; known: conv, lc, " in last
