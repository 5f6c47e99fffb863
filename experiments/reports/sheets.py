"""Maps of neurons, drawn on the sheets of their layers."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lcn_jax.learning.penalties import sheet

MAPS = {
    'preferred': 'preferred class',
    'entropy': 'entropy of the class profile (bits)',
    'selectivity': "d' of the preferred class",
    'preference': 'preferred orientation (°); pale: weak',
    'strength': 'strength of the preference',
    'energy': 'mean absolute activity',
    'wiring': 'wiring: Σ |weight| · distance (sides of the sheet)',
}
LAYOUT = (
    'The features of a position are a small sheet, row by row; those of neighbouring positions lie '
    'side by side, with lines between them.'
)


def draw(
    maps: Mapping[str, np.ndarray], name: str, strengths: Mapping[str, np.ndarray] | None = None
) -> Figure:
    """The map `name` of MAPS, (H, W, O) by layer or other title, each on its sheet.

    strengths: for the map 'preference', in radians: what makes its colours strong or pale.
    """
    columns = min(3, len(maps))
    rows = math.ceil(len(maps) / columns)
    figure = Figure(figsize=(max(7.0, 4.6 * columns), 4.4 * rows + 0.5), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(maps) :]:
        ax.set_axis_off()
    for ax, (title, values) in zip(axes, maps.items()):
        strength = None if strengths is None else strengths[title]
        shown = _draw_one(ax, values, name, strength)
        height, width, _ = values.shape
        a, b = (size // of for size, of in zip(sheet(values).shape, (height, width)))
        ax.set_title(f'{title}: {height} × {width} positions of {a} × {b} features', fontsize=9)
        bar = figure.colorbar(shown, ax=ax, label=MAPS[name], shrink=0.85)
        if name == 'preference':
            bar.set_ticks([0, 45, 90, 135, 180])
    figure.supxlabel(LAYOUT, fontsize=7)
    return figure


def _draw_one(ax: Any, values: np.ndarray, name: str, strength: np.ndarray | None) -> Any:
    on_sheet = sheet(values)
    last = np.nanmax(values, initial=0)
    style: dict = dict(cmap='viridis', vmin=0)
    if name == 'preferred':
        style = dict(cmap='tab10' if last < 10 else 'turbo', vmin=-0.5, vmax=max(last, 9) + 0.5)
    elif name == 'preference':  # 0 and 180° are the same
        on_sheet = np.degrees(on_sheet)
        style = dict(cmap='hsv', vmin=0, vmax=180)
        if strength is not None:
            most = max(np.nanmax(strength, initial=0), 1e-9)
            style['alpha'] = np.nan_to_num(sheet(np.clip(strength / most, 0.1, 1)))
    shown = ax.imshow(on_sheet, interpolation='nearest', **style)
    rows, columns = (on_sheet.shape[axis] // values.shape[axis] for axis in (0, 1))
    line = dict(color='0.5' if name == 'preference' else 'white', linewidth=0.4)
    for i in range(1, values.shape[0]):
        ax.axhline(i * rows - 0.5, **line)
    for j in range(1, values.shape[1]):
        ax.axvline(j * columns - 0.5, **line)
    ax.set(xticks=[], yticks=[])
    _draw_scale(ax, *on_sheet.shape)
    return shown


def _draw_scale(ax: Any, rows: int, columns: int) -> None:
    """A bar below the sheet, as long as a round number of neurons, about a fifth of it."""
    fifth = max(1, columns // 5)
    unit = 10 ** (len(str(fifth)) - 1)
    length = max(unit * step for step in (1, 2, 5) if unit * step <= fifth)
    below = rows - 0.5 + 0.03 * rows
    ax.plot([-0.5, length - 0.5], [below, below], color='black', linewidth=2, clip_on=False)
    text = f'{length} neuron{"s" if length > 1 else ""}'
    ax.text(length - 0.5 + 0.02 * columns, below, text, va='center', fontsize=7)
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))


def draw_smoothness(powers: Mapping[str, np.ndarray]) -> Figure:
    """The mean power at each frequency of some maps, by title, as `maps.radial_power` has it."""
    figure = Figure(figsize=(6, 4), layout='constrained')
    ax = figure.subplots()
    for title, power in powers.items():
        ax.plot(np.arange(1, len(power)), power[1:] / power[1:].sum(), label=title)
    ax.set(xlabel='frequency (cycles per sheet)', ylabel='share of the power', yscale='log')
    ax.legend(fontsize=7, frameon=False)
    return figure
