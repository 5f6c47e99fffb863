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
from lcn_jax.files import from_json
from lcn_jax.training import checkpoint
from lcn_jax.training.metrics import awake

WORKDIRS = flags.DEFINE_list(
    'workdirs', None, 'Folders that experiments.train wrote; * and ? are wildcards.', required=True
)
NOT_COMPARED = ('seed', *checkpoint.FREE)


def main(argv):
    del argv
    workdirs = sorted({path for pattern in WORKDIRS.value for path in glob.glob(pattern)})
    if not workdirs:
        raise UsageError(f'--workdirs={",".join(WORKDIRS.value)} matches no folder.')
    print(markdown([(read_config(workdir), last_record(workdir)) for workdir in workdirs]))


def read_config(workdir: str) -> dict[str, Any]:
    """The fields of a run's config that are compared, by their names with dots."""
    values = flax.traverse_util.flatten_dict(checkpoint.read_config(workdir).to_dict(), sep='.')
    return {name: value for name, value in values.items() if name not in NOT_COMPARED}


def last_record(workdir: str) -> dict[str, Any]:
    """The last record of a run; UsageError if it did not end in an evaluation."""
    path = os.path.join(workdir, 'metrics.jsonl')
    if os.path.exists(path):
        with open(path) as file:
            lines = file.read().splitlines()
        record = from_json(lines[-1]) if lines else {}
        if any(name.endswith('_top1') and name != 'train_top1' for name in record):
            return record
    raise UsageError(f'the run in {workdir} has not been evaluated at its end: train it to there.')


def markdown(runs: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """A row for each config, with its (config, last record) pairs; the best accuracy first."""
    by_config = defaultdict(list)
    for config, record in runs:
        by_config[json.dumps(config, sort_keys=True)].append(record)
    configs = {key: json.loads(key) for key in by_config}
    names = sorted({name for config in configs.values() for name in config})
    differing = [
        name for name in names if len({json.dumps(c.get(name)) for c in configs.values()}) > 1
    ]
    split = 'validation' if 'validation_top1' in runs[0][1] else 'test'
    lines = [
        f'| {" | ".join([*differing, f"{split} top-1 %", "n", "weight deviation", "s / run"])} |',
        '|' + '---|' * len(differing) + '---:|' * 4,
    ]
    rows = []
    for key, records in by_config.items():
        accuracies = [100 * record[f'{split}_top1'] for record in records]
        spread = f' ± {statistics.stdev(accuracies):.1f}' if len(accuracies) > 1 else ''
        deviations = [awake(record, 'weight_deviation') for record in records]
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
