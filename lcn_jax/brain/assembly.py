"""Recorded responses of neurons to images, from npz and NetCDF files."""

import dataclasses
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lcn_jax.errors import UsageError

AXES = ('stimuli', 'neuroids', 'repetitions')
NETCDF = {'.nc', '.nc4', '.netcdf', '.cdf'}


@dataclasses.dataclass(frozen=True)
class Assembly:
    """Responses of N neurons to S images in up to R repetitions.

    responses: (S, N, R) float64, NaN if missing; stimuli: (S,) names of the images, or None if they
    are in the order of the files; groups: (S,) categories of the images, or None; regions: (N,)
    str.
    """

    responses: np.ndarray
    stimuli: np.ndarray | None
    groups: np.ndarray | None
    regions: np.ndarray

    def region(self, name: str) -> np.ndarray:
        """The responses (S, n, R) of the n neurons in a region."""
        return self.responses[:, self.regions == name]


def read(path: str, axes: tuple[str, ...] = AXES, group: str | None = None) -> Assembly:
    """Reads an npz file, or a NetCDF file of Brain-Score.

    An npz file has `responses` with the axes in the order of `axes`, NaN if missing, and may have
    `stimulus_id` (S,) and `region` (N,). If neurons have different numbers of repetitions, each
    keeps as many as the neuron with the fewest, the first ones.

    A NetCDF file has the dimensions `presentation` and `neuroid`, the coordinate `stimulus_id` (or
    `image_id`), and may have the coordinates `repetition` and `region`. Presentations of the same
    image are its repetitions. As in Brain-Score, all are kept even if images differ in number.

    Args:
      group: name of the array (S,), or coordinate of presentations, with the categories of the
        images for stratified splits.

    Raises:
      UsageError: there is no such file, its content has another form, a response is infinite, or
        a response in an npz file has fewer than two repetitions.
    """
    if not Path(path).is_file():
        raise UsageError(f'there is no file {path}.')
    if Path(path).suffix in NETCDF:
        responses, of_stimuli, of_neurons = _from_netcdf(path)
    else:
        responses, of_stimuli, of_neurons = _from_npz(path, axes)
        responses = complete(responses)
    if group is not None and group not in of_stimuli:
        raise UsageError(
            f'{path} has no {group!r} for each image; it has {", ".join(of_stimuli) or "nothing"}.'
        )
    if np.isinf(responses).any():
        raise UsageError(f'{path} has infinite responses; missing ones must be NaN.')
    regions = of_neurons.get('region', np.full(responses.shape[1], 'all'))
    return Assembly(
        responses=responses,
        stimuli=of_stimuli.get('stimulus_id'),
        groups=None if group is None else of_stimuli[group],
        regions=regions.astype(str),
    )


def complete(responses: np.ndarray) -> np.ndarray:
    """(S, N, R), NaN if missing -> (S, N, r): the first r repetitions that are not missing.

    r is the smallest number of repetitions of any neuron and image.

    Raises:
      UsageError: r is below two.
    """
    missing = np.isnan(responses)
    present_first = np.argsort(missing, axis=-1, kind='stable')
    least = int((~missing).sum(-1).min())
    if least < 2:
        raise UsageError(
            f'a neuron has {least} response(s) to an image; leave out neurons or images with fewer '
            'than two.'
        )
    return np.take_along_axis(responses, present_first[..., :least], axis=-1)


def _from_npz(path, axes) -> tuple[np.ndarray, Mapping, Mapping]:
    if sorted(axes) != sorted(AXES):
        raise UsageError(f'the axes are {", ".join(axes)}; they must be {", ".join(AXES)}.')
    try:
        with zipfile.ZipFile(path):  # np.load would take other formats as well
            arrays = dict(np.load(path))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise UsageError(f'{path} is not a valid npz file ({e}).') from e
    responses = arrays.get('responses', np.zeros(()))
    if responses.ndim != 3:
        raise UsageError(f'{path} must have `responses` with three axes: {", ".join(axes)}.')
    responses = responses.transpose([axes.index(axis) for axis in AXES]).astype(np.float64)
    images, neurons, _ = responses.shape
    for name, count, what in (('stimulus_id', images, 'image'), ('region', neurons, 'neuron')):
        if name in arrays and arrays[name].shape != (count,):
            raise UsageError(
                f'{path} has `{name}` of shape {arrays[name].shape}; with one for each {what} it '
                f'would be ({count},). Are the axes of `responses` {", ".join(axes)}?'
            )
    of_stimuli = {k: a for k, a in arrays.items() if a.shape == (images,) and k != 'region'}
    of_neurons = {k: a for k, a in arrays.items() if a.shape == (neurons,) and k == 'region'}
    return responses, of_stimuli, of_neurons


def _from_netcdf(path) -> tuple[np.ndarray, Mapping, Mapping]:
    try:
        import xarray
    except ImportError:
        raise UsageError("NetCDF files need xarray: pip install 'lcn_jax[netcdf]'.") from None
    try:
        array = xarray.load_dataarray(path)
        others = [name for name in array.dims if name not in ('presentation', 'neuroid')]
        values = array.squeeze(others).transpose('presentation', 'neuroid').values
        # image_id is the older name.
        ids = array['stimulus_id' if 'stimulus_id' in array.coords else 'image_id'].values
    except (OSError, ValueError, KeyError) as e:
        raise UsageError(
            f'{path} is not a NetCDF file of one array with the dimensions presentation and '
            f'neuroid and the coordinate stimulus_id or image_id ({e}).'
        ) from e

    def coordinates(dimension):
        return {k: c.values for k, c in array.coords.items() if c.dims == (dimension,)}

    _, first, image = np.unique(ids, return_index=True, return_inverse=True)
    of_presentations = coordinates('presentation')
    repetition = _occurrence(image)
    if 'repetition' in of_presentations:
        named = np.unique(of_presentations['repetition'], return_inverse=True)[1]
        if len(set(zip(image, named))) == len(image):  # or the names are ambiguous
            repetition = named
    responses = np.full((len(first), values.shape[1], repetition.max() + 1), np.nan)
    responses[image, :, repetition] = values
    of_stimuli = {name: values[first] for name, values in of_presentations.items()}
    of_stimuli['stimulus_id'] = ids[first]
    return responses, of_stimuli, coordinates('neuroid')


def _occurrence(numbers: np.ndarray) -> np.ndarray:
    """(S,) int -> (S,) int: how many equal numbers come before each."""
    order = np.argsort(numbers, kind='stable')
    counts = np.bincount(numbers)
    ranks = np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)
    occurrence = np.empty_like(ranks)
    occurrence[order] = ranks
    return occurrence
