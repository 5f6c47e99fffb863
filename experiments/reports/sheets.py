"""Maps of what the neurons of a layer respond to, drawn on the layer's sheet."""

import numpy as np
from matplotlib.figure import Figure

from lcn_jax.learning.penalties import sheet

MAPS = {
    'preferred': 'preferred class',
    'entropy': 'entropy of the class profile (bits)',
    'selectivity': "d' of the preferred class",
}


def tuning(activations: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """What each neuron prefers among the classes that occur in `labels` (N,) int.

    activations: (N, O, H, W), for N images. The response of a neuron is the part above 0, and its
    profile is the mean response to each class. The maps are

      preferred    the class with the highest mean response
      entropy      of the profile divided by its sum: 0 to log2(classes) bits
      selectivity  d' of the preferred class: the difference between the mean responses to it and to
                   all other classes, divided by the root of the mean of the two variances

    Returns:
      float (H, W, O) each; NaN for a neuron that never responds.
    """
    responses = np.maximum(activations, 0).astype(float).transpose(0, 2, 3, 1)
    classes = np.unique(labels)
    profile = np.stack([responses[labels == c].mean(0) for c in classes])
    best = profile.argmax(0)
    total = profile.sum(0)
    share = profile / np.where(total > 0, total, 1)
    entropy = -(share * np.log2(np.where(share > 0, share, 1))).sum(0)

    is_best = (labels == classes[best][..., None]).transpose(3, 0, 1, 2)  # (N, H, W, O)
    means, variances = [], []
    for chosen in (is_best, ~is_best):
        count = chosen.sum(0)
        means.append((responses * chosen).sum(0) / count)
        variances.append(((responses - means[-1]) ** 2 * chosen).sum(0) / count)
    spread = np.sqrt((variances[0] + variances[1]) / 2)
    dprime = (means[0] - means[1]) / np.where(spread > 0, spread, 1)
    found = dict(zip(MAPS, (classes[best].astype(float), entropy, dprime)))
    return {name: np.where(total > 0, values, np.nan) for name, values in found.items()}


def alike(preferred: np.ndarray) -> tuple[float, float]:
    """The share of neighbours on a `sheet` that prefer the same class, and that of all pairs.

    The neighbours of a neuron are to the right and below. Neurons that never respond (NaN) are left
    out.
    """
    pairs = np.concatenate(
        [
            np.stack([preferred[:, :-1].ravel(), preferred[:, 1:].ravel()]),
            np.stack([preferred[:-1].ravel(), preferred[1:].ravel()]),
        ],
        axis=1,
    )
    one, other = pairs[:, ~np.isnan(pairs).any(0)]
    neurons = preferred[~np.isnan(preferred)]
    counts = np.unique(neurons, return_counts=True)[1]
    by_chance = (counts * (counts - 1)).sum() / max(1, len(neurons) * (len(neurons) - 1))
    return float((one == other).mean()) if len(one) else float('nan'), float(by_chance)


def draw(values: np.ndarray, name: str, title: str) -> Figure:
    """The map `name` of `tuning` (H, W, O) on the sheet, with lines between positions."""
    on_sheet = sheet(values)
    figure = Figure(figsize=(7, 6.4 * on_sheet.shape[0] / on_sheet.shape[1]), layout='constrained')
    ax = figure.subplots()
    last = np.nanmax(values)
    style: dict = dict(cmap='viridis', vmin=0)
    if name == 'preferred':
        style = dict(cmap='tab10' if last < 10 else 'turbo', vmin=-0.5, vmax=max(last, 9) + 0.5)
    shown = ax.imshow(on_sheet, interpolation='nearest', **style)
    rows, columns = (on_sheet.shape[axis] // values.shape[axis] for axis in (0, 1))
    for i in range(1, values.shape[0]):
        ax.axhline(i * rows - 0.5, color='white', linewidth=0.4)
    for j in range(1, values.shape[1]):
        ax.axvline(j * columns - 0.5, color='white', linewidth=0.4)
    ax.set(xticks=[], yticks=[], title=title)
    figure.colorbar(shown, ax=ax, label=MAPS[name], shrink=0.9)
    return figure
