r"""Times of layers, training steps and sleeps, compared with each other and with the machine.

    python -m experiments.benchmark --out=experiments/results/benchmark/cpu.json

Compares convolutions, those of XLA, `lax.conv_general_dilated_local` and the implementations of
`conv_local` on the layers of the paper's networks, and on a sequence, a volume and a dilated layer;
training steps of ResNet-20 with locally connected layers, with convolutions, with those of XLA and
with `flax.linen.ConvLocal`; the first two also fed from a dataset on the device; and sleeps. With
`--torch`, where PyTorch is installed, also its steps of the convolutional network, in both layouts
of images, and of one with locally connected layers made with `unfold`. Layers are timed as a step
uses them: the first computes no gradient of the images. The programs take turns in one process, and
every number is a median over the turns, so that other work on the machine slows all of them alike.
Prints ratios, then times; with `--out` writes them to a JSON file with a bar chart beside it. Ten
minutes on two CPU cores.

    python -m experiments.benchmark --device --out=experiments/results/benchmark/gpu.json

is for a GPU or TPU: all that should be measured on one, in bfloat16 and then in float32, 512 images
in a step; layers run in a loop on the device. It writes gpu_bfloat16.json as soon as it has it,
then gpu_float32.json.

    python -m experiments.benchmark --keras=PYTHON \
        --out=experiments/results/all_tnn_speed/cpu.json

times the published All-TNN and its layers on CPU beside those of Keras 2, in a process of PYTHON,
an interpreter that has it, and nothing else; four minutes and 20 GiB. The table is in Markdown.

The floor of a layer is the larger of its FLOPs over the rate of a large matrix product, and of its
bytes, each input read and each output written once, over the rate of a large copy, both measured in
the same run. A small layer that stays in the cache may be below it.
"""

import dataclasses
import importlib.util
import os
import pathlib
import time
from typing import Any

from absl import flags

from experiments.common import cli
from experiments.common.provenance import provenance
from experiments.measure import all_tnn_steps, timing
from experiments.measure.layers import measure_layers
from experiments.measure.steps import measure_sleep, measure_steps
from experiments.measure.timing import Settings, say
from experiments.reports import all_tnn_speed
from experiments.reports.benchmark import plot, ratios, table
from lcn_jax.errors import UsageError
from lcn_jax.files import local_folder, make_folder, to_json, write_text
from lcn_jax.layer.backends import native

ENVIRONMENT = 'XLA_FLAGS', 'GLIBC_TUNABLES', 'LCN_NATIVE', 'CXX'  # what times depend on

OUT = flags.DEFINE_string('out', None, 'JSON file to write; the chart gets its name, with .png.')
NETWORKS = flags.DEFINE_list('networks', ['resnet20'], 'Whose layers: resnet20, resnet18.')
flags.register_validator(
    'networks',
    lambda names: names and set(names) <= {'resnet20', 'resnet18'},
    message='it must be one of, or a list of, resnet20 and resnet18.',
)
BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'Images on each device.', lower_bound=1)
SLEEP_BATCH_SIZE = flags.DEFINE_integer(
    'sleep_batch_size', 512, 'Images on each device in the wake step next to the sleeps.'
)
DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Of the computation.')
TORCH = flags.DEFINE_bool(
    'torch', False, "PyTorch's training steps on CPU, too; it is not installed."
)
KERAS = flags.DEFINE_string(
    'keras', None, 'A Python with Keras 2: the All-TNN beside that of Keras, and nothing else.'
)
DEVICE = flags.DEFINE_bool('device', False, 'Everything that a GPU or TPU is needed for.')
QUICK = flags.DEFINE_bool('quick', False, 'One layer and a tiny network, in seconds.')


def run(settings: Settings) -> dict[str, Any]:
    """Measures everything; the dict is what goes into the JSON file."""
    start = time.perf_counter()
    say('rates of the machine')
    rates = timing.machine_rates(settings)
    layers = measure_layers(rates, settings)
    steps, sleeps = measure_steps(rates, settings), measure_sleep(settings)
    return {
        'units': 'seconds, bytes, FLOPs (two for a multiplication and addition); rates per second',
        **made_with(settings, start),
        'ratios': ratios(layers, steps, sleeps),
        'rates': rates,
        'layers': layers,
        'steps': steps,
        'sleep': sleeps,
    }


def made_with(settings: Settings, start: float) -> dict[str, Any]:
    """The settings, machine and versions behind the numbers, and the seconds since the start."""
    return {
        'environment': {name: os.environ.get(name, '') for name in ENVIRONMENT},
        'settings': dataclasses.asdict(settings),
        **provenance(),
        'seconds': round(time.perf_counter() - start),
    }


def beside_keras(python: str, settings: Settings) -> dict[str, Any]:
    """The All-TNN in one run with Keras 2; the dict is what goes into the JSON file."""
    start = time.perf_counter()
    config = all_tnn_steps.tiny() if QUICK.value else all_tnn_steps.published()
    measured = all_tnn_steps.measure(python, config, settings)
    return {'units': 'seconds, bytes', **made_with(settings, start), **measured}


def main(argv):
    del argv
    if TORCH.value and not importlib.util.find_spec('torch'):
        raise UsageError('--torch needs PyTorch, which is not installed: pip install torch.')
    out = local_folder('--out', OUT.value) if OUT.value else None
    if out:  # rather fail now than after the measurements
        if out.suffix != '.json':
            raise UsageError(f'--out={out} must end in .json.')
        make_folder(out.parent)
    say(native.describe())
    if KERAS.value:
        preset = Settings.quick('float32') if QUICK.value else Settings.beside_keras()
        write_table(beside_keras(KERAS.value, preset), out)
    elif DEVICE.value:
        preset = Settings.quick if QUICK.value else Settings.device
        for dtype in ('bfloat16', 'float32'):
            write(run(preset(dtype)), out and out.with_stem(f'{out.stem}_{dtype}'))
    else:
        write(run(settings()), out)


def settings() -> Settings:
    """What the flags say, for a benchmark in one dtype."""
    if QUICK.value:
        chosen = Settings.quick(DTYPE.value)
    else:
        chosen = Settings(
            tuple(NETWORKS.value), 'resnet20', BATCH_SIZE.value, SLEEP_BATCH_SIZE.value, DTYPE.value
        )
    return dataclasses.replace(chosen, torch=TORCH.value)


def write(report: dict[str, Any], out: pathlib.Path | None) -> None:
    print(table(report))
    if out:
        write_text(out, to_json(report, indent=1))
        plot(report).savefig(out.with_suffix('.png'), dpi=150)
        print(f'{out} and {out.with_suffix(".png")} are written')


def write_table(report: dict[str, Any], out: pathlib.Path | None) -> None:
    """Of `beside_keras`; the Markdown gets the name of the JSON file, with .md."""
    markdown = all_tnn_speed.markdown(report)
    print(markdown)
    if out:
        write_text(out, to_json(report, indent=1))
        write_text(out.with_suffix('.md'), markdown + '\n')


if __name__ == '__main__':
    cli.run(main)
