"""The results of a benchmark: ratios, a table and a chart."""

import statistics
from typing import Any

import numpy as np
from matplotlib.figure import Figure

DIRECTIONS = ('forward', 'forward_backward')
OTHERS = 'others'  # the layers that are of no network
STEPS = ('lc', 'conv', 'torch conv', 'torch conv channels-last', 'xla_conv', 'conv_local')
FED = ('lc', 'conv')  # also fed from a dataset
SLEEP_RULES = ('hebbian', 'mean', 'exact')
COLOURS = {
    'conv': '#4c78a8', 'xla_conv': '#9ecae9',
    'native': '#54a24b', 'direct': '#9ccc65', 'patches': '#b9a44c',
    'lc': '#54a24b', 'lax': '#e45756', 'conv_local': '#e45756',
    'torch conv': '#b279a2', 'torch conv channels-last': '#d6a5c9',
}  # fmt: skip
TITLES = {'forward': 'forward', 'forward_backward': 'forward + backward'}
LABELS = {
    'conv': 'convolution',
    'xla_conv': 'convolution by XLA',
    'torch conv': 'convolution in PyTorch',
    'torch conv channels-last': 'the same channels-last',
    'native': 'conv_local, native',
    'direct': 'conv_local, direct',
    'patches': 'conv_local, patches',
    'lax': 'lax.conv_general_dilated_local',
    'lc': 'locally connected',
    'conv_local': 'flax.linen.ConvLocal',
}


def ratios(layers: dict[str, list[dict]], steps: dict, sleeps: dict) -> dict[str, dict]:
    """Times over times; over the layers of a network, the geometric mean of those with 3×3 kernels.

    The implementations are compared with the one that is chosen for the layer.
    """
    groups = {record['layer']: [record] for record in layers.get(OTHERS, [])} | {
        f'3×3 layers of {network}': [r for r in measured if r['kernel_size'] == (3, 3)]
        for network, measured in layers.items()
        if network != OTHERS
    }
    of_layers = {}
    for group, measured in groups.items():
        of_layers[group] = {
            direction: {
                f'{name} / default': statistics.geometric_mean(
                    seconds[name] / seconds[record['default']]
                    for record in measured
                    for seconds in [record[direction]['seconds']]
                )
                for name in measured[0][direction]['seconds']
            }
            for direction in DIRECTIONS
        }
    step, asleep = steps['seconds'], sleeps['seconds']
    return {
        'layers': of_layers,
        'steps': {
            f'{name} / {other}': step[name] / step[other]
            for name, others in {
                'lc': ('torch conv', 'torch conv channels-last', 'conv', 'torch lc'),
                'conv': ('torch conv', 'torch conv channels-last'),
                'xla_conv': ('conv',),
                'conv_local': ('lc',),
            }.items()
            for other in others
            if name in step and other in step
        }
        | {'lc / floor': step['lc'] / steps['floor_seconds']},
        'input': {f'{name} fed / {name}': step[f'{name} fed'] / step[name] for name in FED},
        'sleep': {f'{rule} / wake': asleep[rule] / asleep['wake'] for rule in SLEEP_RULES},
    }


def batches(layers: list[dict]) -> str:
    """The batch size, or that of each layer if they differ."""
    sizes = [str(layer['batch_size']) for layer in layers]
    return sizes[0] if len(set(sizes)) == 1 else ', '.join(sizes)


def table(report: dict[str, Any]) -> str:
    """Ratios, then times."""
    compared, steps, sleeps, rates = (report[k] for k in ('ratios', 'steps', 'sleep', 'rates'))
    lines = [f'{"ratio of times":<48} {"forward":>10} {"+ backward":>10}']
    for group, directions in compared['layers'].items():
        for name in directions['forward']:
            values = ''.join(f' {directions[direction][name]:>10.2f}' for direction in DIRECTIONS)
            lines.append(f'{f"{group}: {name}":<48}{values}')
    network, batch_size = steps['network'], steps['batch_size']
    for title, part in (
        (f'step of {network}, batch {batch_size}', 'steps'),
        (f'step of {network}, batch {batch_size}', 'input'),
        (f'sleep of {network}, wake batch {sleeps["batch_size"]}', 'sleep'),
    ):
        for name, ratio in compared[part].items():
            lines.append(f'{f"{title}: {name}":<55} {ratio:>10.2f}')

    for network, layers in report['layers'].items():
        names = list(layers[0]['forward']['seconds'])
        columns = ''.join(f' {name:>9}' for name in [*names, 'floor', '/ floor'])
        temps = ''.join(f' {name:>7}' for name in names)
        for direction in DIRECTIONS:
            title = f'{network}, batch {batches(layers)}: {TITLES[direction]}, ms'
            heads = f'{"bound by":>9} {"default":>8}   MB:{temps}'
            lines += ['', title, f'{"layer":<24}{columns} {heads}']
            for layer in layers:
                record = layer[direction]
                seconds, least = record['seconds'], record['floor']['seconds']
                times = ''.join(f' {1e3 * value:>9.2f}' for value in (*seconds.values(), least))
                temp = ''.join(f' {size / 1e6:>7.1f}' for size in record['temp_bytes'].values())
                lines.append(
                    f'{layer["layer"]:<24}{times} {seconds[layer["default"]] / least:>9.1f} '
                    f'{record["floor"]["bound_by"]:>9} {layer["default"]:>8}      {temp}'
                )

    lines += ['', f'{"training step":<24} {"ms":>9} {"temp MB":>9} {"compile s":>9}']
    for name, seconds in steps['seconds'].items():
        compiled = name in steps['compile_seconds'] and (
            f'{steps["temp_bytes"][name] / 1e6:>9.1f} {steps["compile_seconds"][name]:>9.1f}'
        )
        lines.append(f'{name:<24} {1e3 * seconds:>9.1f} {compiled or ""}'.rstrip())
    lines.append(f'{"floor of lc":<24} {1e3 * steps["floor_seconds"]:>9.1f}')
    lines += ['', f'{"sleep":<24} {"ms":>9} {"temp MB":>9}']
    for name, seconds in sleeps['seconds'].items():
        lines.append(f'{name:<24} {1e3 * seconds:>9.1f} {sleeps["temp_bytes"][name] / 1e6:>9.1f}')
    lines += [
        '',
        f'matrix product {rates["float32_flops"] / 1e9:,.0f} GFLOP/s in float32, '
        f'{rates["bfloat16_flops"] / 1e9:,.0f} in bfloat16; '
        f'copy {rates["copy_bytes"] / 1e9:,.1f} GB/s, read and written',
        f'{report["device"]}, {report["cpus"]} CPUs, JAX {report["jax"]}, {report["seconds"]} s; '
        + ', '.join(f'{name}={value}' for name, value in report['environment'].items() if value),
    ]
    return '\n'.join(lines)


def plot(report: dict[str, Any]) -> Figure:
    """Forward + backward of each layer with its floor, and the whole steps."""
    layers, steps = report['layers'], report['steps']
    widths = [*(len(measured) for measured in layers.values()), 5]
    figure = Figure(figsize=(2 + 1.2 * sum(widths), 4.8), layout='constrained')
    *of_networks, of_steps = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    for axes, (network, measured) in zip(of_networks, layers.items()):
        names = list(measured[0]['forward_backward']['seconds'])
        bar = 0.8 / len(names)
        for i, name in enumerate(names):
            times = [1e3 * layer['forward_backward']['seconds'][name] for layer in measured]
            left = np.arange(len(measured)) + (i - (len(names) - 1) / 2) * bar
            axes.bar(left, times, bar, color=COLOURS.get(name), label=LABELS.get(name, name))
        floors = [1e3 * layer['forward_backward']['floor']['seconds'] for layer in measured]
        axes.hlines(
            floors, np.arange(len(measured)) - 0.4, np.arange(len(measured)) + 0.4,
            color='0.1', linestyle='--', linewidth=1.2, label='floor of the machine',
        )  # fmt: skip
        axes.set_xticks(
            range(len(measured)), [layer['layer'].replace(' ', '\n', 2) for layer in measured]
        )
        axes.set(yscale='log', ylabel='forward + backward (ms)')
        axes.set_title(f'Layers of {network}, batch {batches(measured)}')
        axes.legend(frameon=False, fontsize='small', ncols=2, loc='upper right')
        axes.set_ylim(0.8 * min(floors), 12 * axes.dataLim.y1)  # room for the legend
        axes.margins(x=0.02)
    seconds = {name: steps['seconds'][name] for name in STEPS if name in steps['seconds']}
    bars = of_steps.bar(
        [LABELS[name].replace('.', '.\n').replace(' ', '\n') for name in seconds],
        [1e3 * value for value in seconds.values()],
        0.6,
        color=[COLOURS[name] for name in seconds],
    )
    of_steps.bar_label(bars, [f'{1e3 * value:,.0f}' for value in seconds.values()], padding=2)
    of_steps.set(yscale='log', ylabel='training step (ms)')
    of_steps.set_ylim(500 * min(seconds.values()), 2000 * max(seconds.values()))
    of_steps.set_title(f'{steps["network"]}, batch {steps["batch_size"]}')
    for axes in (*of_networks, of_steps):
        axes.grid(axis='y', alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
    figure.suptitle(
        f'{report["device"]}, {report["settings"]["dtype"]}, JAX {report["jax"]}', fontsize='medium'
    )
    return figure
