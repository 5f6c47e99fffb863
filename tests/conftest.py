"""Eight virtual devices for all tests, so that everything is tested across devices."""

import jax

jax.config.update('jax_num_cpu_devices', 8)


def pytest_terminal_summary(terminalreporter):
    """Prints what tests left with `record_property('note', ...)`."""
    for report in terminalreporter.getreports('passed'):
        for name, value in report.user_properties:
            if name == 'note':
                terminalreporter.write_line(f'{report.nodeid}: {value}')
