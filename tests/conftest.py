"""Eight virtual devices for all tests, so that everything is tested across devices."""

import os
import pathlib
import time

# A program is compiled once for all tests, for all processes that they start (they inherit the
# variables), and for later runs: JAX finds it again if program, flags and versions are the same.
PROGRAMS = pathlib.Path(__file__).parents[1] / '.pytest_cache' / 'programs'
DAYS_KEPT = 7

os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(PROGRAMS))
os.environ |= {
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
}

import jax  # noqa: E402

jax.config.update('jax_num_cpu_devices', 8)


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


def pytest_terminal_summary(terminalreporter):
    """Prints what tests left with `record_property('note', ...)`."""
    for report in terminalreporter.getreports('passed'):
        for name, value in report.user_properties:
            if name == 'note':
                terminalreporter.write_line(f'{report.nodeid}: {value}')
