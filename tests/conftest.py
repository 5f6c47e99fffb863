"""Eight virtual devices for all tests, programs that are kept, and a count of them."""

import collections
import os
import pathlib
import sys
import time

import garbage
import pytest

# A program is compiled once for all tests, for all processes that they start (they inherit the
# variables), and for later runs: JAX finds it again if program, flags and versions are the same.
PROGRAMS = pathlib.Path(__file__).parents[1] / '.pytest_cache' / 'programs'
DAYS_KEPT = 7

os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(PROGRAMS))
os.environ |= {
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
}

import jax  # noqa: E402

# Devices wait for each other on a busy machine, too. Tests compile much and compute little: with
# one piece of code a program, and older generators of code where JAX has them, compiling takes a
# quarter of the time. LCN_USERS_XLA=1 does without these two.
flags = [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_cpu_collective_call_terminate_timeout_seconds=1800',
]
if 'LCN_USERS_XLA' not in os.environ:
    flags.append('--xla_cpu_parallel_codegen_split_count=1')
    if jax.__version_info__ < (0, 12):
        flags.append('--xla_cpu_use_fusion_emitters=false')
    else:
        flags.append('--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE')
os.environ['XLA_FLAGS'] = ' '.join(flags)

jax.config.update('jax_num_cpu_devices', 8)

# How often JAX asks for a program, and how often it has to compile one.
EVENTS = {
    '/jax/compilation_cache/compile_requests_use_cache': 'programs',
    '/jax/compilation_cache/cache_misses': 'compiled',
}
counts = collections.Counter()
jax.monitoring.register_event_listener(
    lambda event, **_: counts.update([EVENTS[event]] if event in EVENTS else [])
)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before its fixtures: has XLA optimise as it does for users where a test is about that."""
    quick = '1' if item.get_closest_marker('optimised') is None else '0'
    if os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] != quick:
        os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = quick  # of processes that tests start
        jax.config.update('jax_disable_most_optimizations', quick == '1')
        jax.clear_caches()  # JAX does not compile again just because of this


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
    item.user_properties.append(('programs', dict(counts)))
    counts.clear()


@pytest.fixture
def no_tensorflow():
    """Fails if the test imports it."""
    yield
    assert 'tensorflow' not in sys.modules


def pytest_sessionfinish(session):
    """Deletes old programs, once all workers have ended."""
    if not hasattr(session.config, 'workerinput'):
        for path in PROGRAMS.glob('*'):
            if time.time() - path.stat().st_mtime > DAYS_KEPT * 24 * 3600:
                path.unlink(missing_ok=True)


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that no worker is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker('slow')}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    garbage.search_seldom()


def pytest_terminal_summary(terminalreporter):
    """Prints what tests left with `record_property('note', ...)`, and which files need programs."""
    files = collections.defaultdict(collections.Counter)
    for report in terminalreporter.getreports('passed') + terminalreporter.getreports(''):
        for name, value in report.user_properties:
            if name == 'note' and report.when == 'call':
                terminalreporter.write_line(f'{report.nodeid}: {value}')
            elif name == 'programs':
                files[report.location[0]].update(value)
    terminalreporter.section('programs of XLA, not counting those of other processes')
    shown = sorted(files.items(), key=lambda item: -item[1]['programs'])[:10]
    for name, count in [*shown, ('all files', sum(files.values(), collections.Counter()))]:
        terminalreporter.write_line(f'{count["programs"]:5}, {count["compiled"]} compiled: {name}')
