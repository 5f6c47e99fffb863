"""Compares finished runs by the config fields in which they differ: a table in Markdown.

    python -m experiments.compare --workdirs=runs/ablation/*

Runs that differ only in the seed are one row: mean and standard deviation of their accuracy.
"""

import glob
import json
import os
import statistics
from collections import defaultdict
from typing import Any

import flax.traverse_util
from absl import flags

from experiments.common import cli
from lcn_jax.errors import UsageError
from lcn_jax.training import checkpoint, metrics
from lcn_jax.training.train import evaluated_split

WORKDIRS = flags.DEFINE_list(
    'workdirs', None, 'Folders that experiments.train wrote; * and ? are wildcards.', required=True
)
Run = tuple[dict[str, Any], dict[str, Any]]
NOT_COMPARED = ('seed', *checkpoint.FREE)


def main(argv):
    del argv
    workdirs = sorted({path for pattern in WORKDIRS.value for path in glob.glob(pattern)})
    if not workdirs:
        raise UsageError(f'--workdirs={",".join(WORKDIRS.value)} matches no folder.')
    print(markdown([read_run(workdir) for workdir in workdirs]))


def read_run(workdir: str) -> Run:
    """The fields that are compared, by their names with dots, and the last record with its 'split'.

    Raises:
      UsageError: the folder holds no run, or one that did not end in an evaluation.
    """
    config = checkpoint.read_config(workdir)
    values = flax.traverse_util.flatten_dict(config.to_dict(), sep='.')
    fields = {name: value for name, value in values.items() if name not in NOT_COMPARED}
    records = metrics.read(os.path.join(workdir, 'metrics.jsonl'))
    split = evaluated_split(config)
    if not records or f'{split}_top1' not in records[-1]:
        raise UsageError(
            f'the run in {workdir} has not been evaluated at its end: train it to there.'
        )
    return fields, records[-1] | {'split': split}


def markdown(runs: list[Run]) -> str:
    """A row for each config, the best accuracy first."""
    by_config = defaultdict(list)
    for config, record in runs:
        by_config[json.dumps(config, sort_keys=True)].append(record)
    configs = {key: json.loads(key) for key in by_config}
    names = sorted({name for config in configs.values() for name in config})
    differing = [
        name for name in names if len({json.dumps(c.get(name)) for c in configs.values()}) > 1
    ]
    splits = '/'.join(sorted({record['split'] for _, record in runs}))
    lines = [
        f'| {" | ".join([*differing, f"{splits} top-1 %", "n", "weight deviation", "s / run"])} |',
        '|' + '---|' * len(differing) + '---:|' * 4,
    ]
    rows = []
    for key, records in by_config.items():
        accuracies = [100 * record[f'{record["split"]}_top1'] for record in records]
        spread = f' ± {statistics.stdev(accuracies):.1f}' if len(accuracies) > 1 else ''
        deviations = [metrics.awake(record, 'weight_deviation') for record in records]
        deviation = '' if None in deviations else f'{statistics.mean(deviations):.2g}'
        cells = [
            *(str(configs[key].get(name, '')) for name in differing),
            f'{statistics.mean(accuracies):.1f}{spread}',
            str(len(records)),
            deviation,
            f'{statistics.mean(record["seconds"] for record in records):.0f}',
        ]
        rows.append((-statistics.mean(accuracies), f'| {" | ".join(cells)} |'))
    return '\n'.join([*lines, *(row for _, row in sorted(rows))])


if __name__ == '__main__':
    cli.run(main)
