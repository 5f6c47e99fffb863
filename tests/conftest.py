"""Eight virtual devices for all tests, so that everything is tested across devices."""

import os
import tempfile

if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    # A program is compiled once for all tests, and for all processes that they start. Workers of
    # pytest inherit the variables.
    _programs = tempfile.TemporaryDirectory(prefix='lcn_jax_tests_')
    os.environ |= {
        'JAX_COMPILATION_CACHE_DIR': _programs.name,
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    }

import jax

jax.config.update('jax_num_cpu_devices', 8)


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
