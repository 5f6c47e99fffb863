"""The table of the All-TNN's speed beside that of Keras 2."""

from typing import Any

from experiments.reports.style import table

OURS = 'lcn_jax'
IMPLEMENTATIONS = (1, 2, 3)


def markdown(report: dict[str, Any]) -> str:
    """Milliseconds, and how many times as long as ours; of what was not run, its kernels' size."""
    names = OURS, *map(str, IMPLEMENTATIONS)
    titles = OURS, *(f'`implementation={number}`' for number in IMPLEMENTATIONS)
    keras = report['keras']
    return '\n'.join(
        [
            table(
                [f'batch of {report["batch_size"]}', *titles],
                [
                    [record['what'], *(_cell(record, name) for name in names)]
                    for record in report['records']
                ],
            ),
            '',
            f'Commit {report["commit"]}; {report["cpus"]} cores of {report["cpu"]}; JAX '
            f'{report["jax"]}; TensorFlow {keras["tensorflow"]} with Keras {keras["keras"]}, '
            f'whose process took up to {keras["most_bytes"] / 1e9:.1f} GB.',
        ]
    )


def _cell(record: dict[str, Any], name: str) -> str:
    if name not in record['seconds']:
        size = record['kernel_bytes'].get(name)
        return '' if size is None else f'({size / 1e9:,.1f} GB)'
    seconds, ours = record['seconds'][name], record['seconds'][OURS]
    times = '' if name == OURS else f' ({seconds / ours:,.1f}×)'
    return f'{1e3 * seconds:,.{1 if seconds < 0.1 else 0}f} ms{times}'
