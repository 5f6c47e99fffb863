"""Maps of what the neurons of a layer do: pure functions of NumPy arrays.

Activations arrive in batches (N, H, W, O), and what is kept of them, `Moments` and the best phases
of gratings, takes the same memory however many images there are. A map is (H, W, O); several are
stacked along axes in front. `lcn_jax.learning.penalties.sheet` lays its neurons side by side.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lcn_jax.layer.grid import Grid
from lcn_jax.learning.penalties import DIRECTIONS, pairs, sheet

# ---- Categories. ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Of responses to the images of K classes: count (K,), sums and squares (K, H, W, O) float64.

    The response of a neuron is the part of its activation above 0. sizes (H, W, O) is the sum of
    the absolute activations.
    """

    count: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    sizes: np.ndarray


def moments(
    batches: Iterable[tuple[Mapping[str, np.ndarray], np.ndarray]], classes: int
) -> dict[str, Moments]:
    """By layer, of batches of activations (N, H, W, O) by layer, and labels (N,) int."""
    found: dict[str, Moments] = {}
    for by_layer, labels in batches:
        for name, activations in by_layer.items():
            shape = activations.shape[1:]
            if name not in found:
                sums, squares = (np.zeros((classes, *shape)) for _ in range(2))
                found[name] = Moments(np.zeros(classes), sums, squares, np.zeros(shape))
            _add(found[name], activations, labels)
    return found


def _add(found: Moments, activations: np.ndarray, labels: np.ndarray) -> None:
    responses = np.maximum(activations, 0).astype(float)
    found.count[:] += np.bincount(labels, minlength=len(found.count))
    for label in np.unique(labels):
        of_class = responses[labels == label]
        found.sums[label] += of_class.sum(0)
        found.squares[label] += (of_class**2).sum(0)
    found.sizes[:] += np.abs(activations).sum(0, dtype=float)


TUNING = ('preferred', 'entropy', 'selectivity')


def tuning(of: Moments) -> dict[str, np.ndarray]:
    """What each neuron prefers among the classes that have images.

    Its profile is the mean response to each class. The maps, (H, W, O), are

      preferred    the class with the highest mean response
      entropy      of the profile divided by its sum: 0 to log2(classes) bits
      selectivity  d' of the preferred class, as in `d_primes`

    NaN for a neuron that never responds.
    """
    classes = np.flatnonzero(of.count)
    profile = of.sums[classes] / of.count[classes].reshape(-1, 1, 1, 1)
    best = profile.argmax(0)
    total = profile.sum(0)
    share = profile / np.where(total > 0, total, 1)
    entropy = -(share * np.log2(np.where(share > 0, share, 1))).sum(0)
    d_prime = np.take_along_axis(d_primes(of)[classes], best[None], 0)[0]
    found = dict(zip(TUNING, (classes[best].astype(float), entropy, d_prime)))
    return {name: np.where(total > 0, values, np.nan) for name, values in found.items()}


def d_primes(of: Moments) -> np.ndarray:
    """d' of each class, (K, H, W, O): how much more a neuron responds to it than to all others.

    The difference between the two mean responses, divided by the root of the mean of the two
    variances; 0 if nothing varies, NaN for a class without images.
    """
    count = of.count.reshape(-1, 1, 1, 1)
    mean, variance = _mean_and_variance(count, of.sums, of.squares)
    others, of_others = _mean_and_variance(
        count.sum() - count, of.sums.sum(0) - of.sums, of.squares.sum(0) - of.squares
    )
    spread = np.sqrt((variance + of_others) / 2)
    return (mean - others) / np.where(spread > 0, spread, 1)


def _mean_and_variance(count, sums, squares):
    with np.errstate(invalid='ignore'):  # NaN where there are none
        mean = sums / count
        return mean, np.maximum(squares / count - mean**2, 0)


# ---- Orientations. -------------------------------------------------------------------------------


def gratings(
    size: int, wavelength: float, angle: float, phases: int, channels: int = 3
) -> np.ndarray:
    """Sinusoidal gratings, (phases, size, size, channels) float32 from 0 to 1, equally far apart.

    wavelength: in pixels. angle: of the stripes, in radians, anticlockwise from the horizontal.
    """
    rows, columns = np.indices((size, size))
    across = math.sin(angle) * columns + math.cos(angle) * rows
    phase = np.arange(phases).reshape(-1, 1, 1) / phases
    values = 0.5 + 0.5 * np.sin(2 * np.pi * (across / wavelength + phase))
    return np.repeat(values[..., None], channels, axis=-1).astype(np.float32)


def best_phases(batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """By layer, the largest responses to each grating, (gratings, H, W, O), at any of its phases.

    batches: for each grating, the activations (phases, H, W, O) by layer.
    """
    largest = [
        {name: np.maximum(of_phases.max(0), 0) for name, of_phases in by_layer.items()}
        for by_layer in batches
    ]
    return {name: np.stack([of[name] for of in largest]) for name in largest[0]}


def orientation(responses: np.ndarray, angles: np.ndarray) -> dict[str, np.ndarray]:
    """The circular mean of responses (wavelengths, angles, H, W, O) to gratings at best phase.

    With r(θ) the responses at the wavelength that drives the neuron most, and
    z = Σ r(θ) exp(2iθ) / Σ r(θ):

      preference  arg z / 2, in radians from 0 to π
      strength    |z|: 1 if a single angle is responded to, 0 if all are alike
      wavelength  the number of the wavelength

    Returns:
      (H, W, O) each; NaN for a neuron that never responds.
    """
    driven = responses.sum(1)
    best = driven.argmax(0)
    at_best = np.take_along_axis(responses, best[None, None], 0)[0]
    total = at_best.sum(0)
    z = np.tensordot(np.exp(2j * angles), at_best, (0, 0))
    z /= np.where(total > 0, total, 1)
    preference = (np.angle(z) / 2) % np.pi
    found = dict(preference=preference, strength=np.abs(z), wavelength=best.astype(float))
    return {name: np.where(total > 0, values, np.nan) for name, values in found.items()}


def eighths(preference: np.ndarray) -> np.ndarray:
    """The number of each orientation, in radians from 0 to π, among eight, from 0; NaN for NaN."""
    return np.floor(preference / np.pi * 8)


# ---- Smoothness, of maps on a sheet. -------------------------------------------------------------


def alike(preferred: np.ndarray) -> tuple[float, float]:
    """The share of neighbours on a sheet that prefer the same class, and that of all pairs.

    The neighbours of a neuron are to the right and below. Neurons that never respond (NaN) are left
    out.
    """
    of_pairs = [pairs(preferred, direction) for direction in DIRECTIONS[4]]
    one, other = np.concatenate([np.stack([a.ravel(), b.ravel()]) for a, b in of_pairs], axis=1)
    known = ~(np.isnan(one) | np.isnan(other))
    neurons = preferred[~np.isnan(preferred)]
    counts = np.unique(neurons, return_counts=True)[1]
    by_chance = (counts * (counts - 1)).sum() / max(1, len(neurons) * (len(neurons) - 1))
    same = (one == other)[known]
    return float(same.mean()) if len(same) else float('nan'), float(by_chance)


def radial_power(on_sheet: np.ndarray) -> np.ndarray:
    """The mean power of a map at each whole frequency from 0 on, in cycles per sheet.

    on_sheet: (rows, columns), real or complex; of orientations give strength · exp(2i preference).
    The power of a frequency (u, v) counts for the nearest whole number to |(u, v)|. NaN is 0.
    """
    power = np.abs(np.fft.fft2(np.nan_to_num(on_sheet)) / on_sheet.size) ** 2
    u, v = (np.fft.fftfreq(size, 1 / size) for size in on_sheet.shape)
    radius = np.rint(np.hypot(u[:, None], v)).astype(int)
    sums, counts = (np.bincount(radius.ravel(), of) for of in (power.ravel(), None))
    return (sums / counts)[: min(on_sheet.shape) // 2 + 1]


def cluster_size(kinds: np.ndarray) -> np.ndarray:
    """How far a neuron must look to see every kind: the smallest r, (rows, columns) float.

    kinds: (rows, columns) of numbers, such as preferred classes or binned orientations; NaN for
    none. A neuron sees the square of 2r + 1 neurons a side around it, across opposite borders of
    the sheet. NaN if no square that is smaller than the sheet is enough; r is at least 1.
    """
    found = np.full(kinds.shape, np.nan)
    known = np.unique(kinds[~np.isnan(kinds)])
    if not len(known):
        return found
    seen = np.stack([kinds == kind for kind in known])
    for r in range(1, min(kinds.shape) // 2):
        for axis in (1, 2):
            seen = seen | np.roll(seen, 1, axis) | np.roll(seen, -1, axis)
        found[np.isnan(found) & seen.all(0)] = r
    return found


# ---- Energy. -------------------------------------------------------------------------------------


def energy(of: Moments) -> np.ndarray:
    """The mean absolute activity of each neuron, (H, W, O)."""
    return of.sizes / of.count.sum()


def wiring(kernel: np.ndarray, grid: Grid) -> np.ndarray:
    """Σ |weight| · distance to its input, (H, W, O), over the weights of each neuron.

    The sheets of the layer and of its input lie on top of each other, in a square of side 1; the
    distance is between the places of the two neurons on it. Weights onto padding are left out.

    kernel: (H, W, kh, kw, C, O), of a layer with this grid and without groups; its input has a
    sheet of C features at each position. ValueError for circular padding and input dilation.
    """
    if grid.circular or set(grid.input_dilation) != {1}:
        raise ValueError('wiring needs a layer without circular padding and input dilation.')
    *_, channels, features = kernel.shape
    own, inputs = places(grid.output_size, features), places(grid.input_size, channels)
    rows, columns = (
        grid.starts(axis)[:, None] + np.arange(grid.kernel_size[axis]) * grid.kernel_dilation[axis]
        for axis in (0, 1)
    )
    height, width = grid.input_size
    found = np.empty(own.shape[:-1])
    for i, j in np.ndindex(*grid.output_size):  # a position at a time, for the memory
        down, right = rows[i], columns[j]
        in_rows, in_columns = (down >= 0) & (down < height), (right >= 0) & (right < width)
        seen = inputs[np.ix_(down[in_rows], right[in_columns])]
        apart = seen[..., None, :] - own[i, j]  # (kh, kw, C, O, 2)
        sizes = np.abs(kernel[i, j][in_rows][:, in_columns])
        found[i, j] = (sizes * np.hypot(apart[..., 0], apart[..., 1])).sum((0, 1, 2))
    return found


def places(size: Sequence[int], features: int) -> np.ndarray:
    """Where each neuron lies on its sheet of side 1, rows and columns: (H, W, features, 2)."""
    shape = (*size, features)
    on_sheet = sheet(np.arange(math.prod(shape)).reshape(shape))
    found = np.empty((*shape, 2))
    flat = found.reshape(-1, 2)
    flat[on_sheet.ravel()] = (np.indices(on_sheet.shape).reshape(2, -1).T + 0.5) / on_sheet.shape
    return found
