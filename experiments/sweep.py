"""Trains a network for every combination of values of config fields, and compares them.

    python -m experiments.sweep --config=experiments/configs/digits.py:lc_mean_joined \\
        --over config.sleep.every=1,10,100 --over config.learning_rate=5e-3,1e-2 --seeds=3 \\
        --out=runs/sweep

Each run has its own workdir, OUT/NAME-SEED. If it is stopped, the same command continues, and other
values or more seeds add runs. At the end it writes what experiments.compare writes of all runs in
OUT: comparison.md, .json, .csv and .png.

To choose values, hold out training images with --config.validation=N: the test images are for the
result. --jobs=N trains N networks at the same time, and --cluster=slurm submits the work to SLURM
(docs/many_runs.md).
"""

import ast
import itertools
import pathlib
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from absl import flags
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from experiments.common import cli, many
from experiments.common.runs import Runs
from experiments.reports import compared, comparison
from lcn_jax.errors import UsageError
from lcn_jax.files import local_folder

CONFIG = cli.define_config('File with get_config(kind), a colon, and the kind.')
OVER = flags.DEFINE_multi_string(
    'over', [], 'config.FIELD=VALUE,VALUE,...: values to try. Several fields: all combinations.'
)
SEEDS = flags.DEFINE_integer('seeds', 1, 'Networks of each combination.', lower_bound=1)
OUT = flags.DEFINE_string('out', 'runs/sweep', 'Folder for the runs and their comparison.')


def main(argv):
    del argv
    local_folder('--out', OUT.value)
    fields = dict(values_of(text, CONFIG.value) for text in OVER.value)
    configs = {}
    for values in itertools.product(*fields.values()):
        chosen = dict(zip(fields, values))
        for seed in range(SEEDS.value):
            name = f'{name_of(chosen)}-{seed}'
            if name in configs:
                raise UsageError(f'--over has {name.rpartition("-")[0]} twice: leave one out.')
            configs[name] = with_values(CONFIG.value, chosen | {'seed': seed})
    many.run(Runs(OUT.value, configs), report)


def report(out: str) -> str:
    workdirs = sorted(str(path.parent) for path in pathlib.Path(out).glob('*/config.json'))
    return compared.write(comparison.compare(*comparison.read(workdirs)), out)


def values_of(text: str, config: ConfigDict) -> tuple[str, list[Any]]:
    """'config.sleep.every=1,10' -> 'sleep.every', [1, 10]: of the types that fields have.

    Commas in brackets are part of a value, as in config.model.stage_sizes=(1,1),(2,2).
    """
    name, _, values = text.partition('=')
    field = name.removeprefix('config.')
    if field == name or not values or field == 'seed':
        raise UsageError(
            f'--over={text} must be config.FIELD=VALUE,VALUE. --seeds is the number of seeds.'
        )
    is_text = isinstance(flatten_dict(config.to_dict(), sep='.').get(field), str)
    return field, [
        value if is_text else literal(value) for value in re.split(r',(?![^(]*\))', values)
    ]


def literal(value: str) -> Any:
    """The number, flag or tuple that `value` is in Python, or `value` itself."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def with_values(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """A copy of the config with these values; UsageError if one is of another type."""
    changed = config.copy_and_resolve_references()
    for field, value in values.items():
        try:
            changed.update(unflatten_dict({field: value}, sep='.'))
        except TypeError as error:
            raise UsageError(f'--over config.{field}={value}: {error}') from error
    return changed


def name_of(values: Mapping[str, Any]) -> str:
    """'every=10+learning_rate=0.001': the last names of fields, in full where they are the same."""
    last = Counter(field.rpartition('.')[2] for field in values)
    parts = []
    for field, value in values.items():
        short = field.rpartition('.')[2]
        parts.append(f'{short if last[short] == 1 else field}={value}'.replace(' ', ''))
    return re.sub('[^A-Za-z0-9_.=+-]', '_', '+'.join(parts)) or 'run'


if __name__ == '__main__':
    cli.run(main)
