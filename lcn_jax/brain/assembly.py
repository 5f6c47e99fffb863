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
Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Assembly:
    """Responses of N neurons to S images in up to R repetitions.

    responses: (S, N, R) float64, NaN if missing; stimuli: (S,) str, names of the images in
    ascending order, or None if the images are in the order of the files; groups: (S,) categories of
    the images, or None; regions: (N,) str.
    """

    responses: np.ndarray
    stimuli: np.ndarray | None
    groups: np.ndarray | None
    regions: np.ndarray

    def region(self, name: str) -> np.ndarray:
        """The responses (S, n, R) of the n neurons in a region."""
        return self.responses[:, self.regions == name]


def read(path: str, axes: tuple[str, ...] = AXES, group: str | None = None) -> Assembly:
    """Reads an npz file, or a NetCDF file of Brain-Score; docs/brain_score.md describes both.

    axes: the order of those of `responses` in an npz file; group: the name of the array (S,), or
    coordinate of presentations, with the categories of the images for stratified splits.

    From an npz file only the repetitions that all neurons have are kept (see `complete`), from a
    NetCDF file all, as in Brain-Score. The images are sorted by their names, so that their splits
    do not depend on the order in a file. UsageError if there is no such file, it has another form,
    or a response is infinite.
    """
    if not Path(path).is_file():
        raise UsageError(f'there is no file {path}.')
    if Path(path).suffix in NETCDF:
        responses, by_image, by_neuron = _from_netcdf(path)
    else:
        responses, by_image, by_neuron = _from_npz(path, axes)
        responses = complete(responses)
    if group is not None and group not in by_image:
        raise UsageError(
            f'{path} has no {group!r} for each image; it has {", ".join(by_image) or "nothing"}.'
        )
    if np.isinf(responses).any():
        raise UsageError(f'{path} has infinite responses; missing ones must be NaN.')
    stimuli, order = None, slice(None)
    if 'stimulus_id' in by_image:
        stimuli = _text(by_image['stimulus_id'])
        order = np.argsort(stimuli, kind='stable')
        stimuli = stimuli[order]
    return Assembly(
        responses[order],
        stimuli,
        groups=None if group is None else by_image[group][order],
        regions=_text(by_neuron.get('region', np.full(responses.shape[1], 'all'))),
    )


def _text(names: np.ndarray) -> np.ndarray:
    """As str; files may have them as bytes, in UTF-8."""

    def decoded(name):
        return name.decode(errors='replace') if isinstance(name, bytes) else str(name)

    return np.array([decoded(name) for name in names.tolist()], str)


def complete(responses: np.ndarray) -> np.ndarray:
    """(S, N, R), NaN if missing -> (S, N, r): the first r repetitions that are not missing.

    r is the smallest number of repetitions of any neuron and image; UsageError if it is below two.
    """
    missing = np.isnan(responses)
    fewest = int((~missing).sum(-1).min())
    if fewest < 2:
        raise UsageError(
            f'a neuron has {fewest} response(s) to an image; leave out neurons or images with '
            'fewer than two.'
        )
    present_first = np.argsort(missing, axis=-1, kind='stable')
    return np.take_along_axis(responses, present_first[..., :fewest], axis=-1)


def _from_npz(path: str, axes: tuple[str, ...]) -> tuple[np.ndarray, Arrays, Arrays]:
    """Responses (S, N, R), and arrays with a value for each image and for each neuron."""
    if sorted(axes) != sorted(AXES):
        raise UsageError(f'the axes are {", ".join(axes)}; they must be {", ".join(AXES)}.')
    try:
        with zipfile.ZipFile(path):  # np.load would take other formats as well
            arrays = dict(np.load(path))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f'{path} is not a valid npz file ({error}).') from error
    responses = arrays.get('responses', np.zeros(()))
    if responses.ndim != 3 or responses.size == 0 or responses.dtype.kind not in 'fiu':
        raise UsageError(
            f'{path} has {responses.dtype} `responses` of shape {responses.shape}; they must be '
            f'numbers with three axes, {", ".join(axes)}, none of them empty.'
        )
    responses = responses.transpose([axes.index(axis) for axis in AXES]).astype(np.float64)
    images, neurons, _ = responses.shape
    for name, count, what in (('stimulus_id', images, 'image'), ('region', neurons, 'neuron')):
        if name in arrays and arrays[name].shape != (count,):
            raise UsageError(
                f'{path} has `{name}` of shape {arrays[name].shape}; with one for each {what} it '
                f'would be ({count},). Are the axes of `responses` {", ".join(axes)}?'
            )
    by_neuron = {'region': arrays.pop('region')} if 'region' in arrays else {}
    by_image = {name: array for name, array in arrays.items() if array.shape == (images,)}
    return responses, by_image, by_neuron


def _from_netcdf(path: str) -> tuple[np.ndarray, Arrays, Arrays]:
    """As `_from_npz`."""
    try:
        import pandas as pd
        import xarray
    except ImportError:
        raise UsageError("NetCDF files need xarray: pip install 'lcn_jax[netcdf]'.") from None
    try:
        array = xarray.load_dataarray(path)
        others = [name for name in array.dims if name not in ('presentation', 'neuroid')]
        values = array.squeeze(others).transpose('presentation', 'neuroid').values
        # image_id is the older name.
        ids = array['stimulus_id' if 'stimulus_id' in array.coords else 'image_id'].values
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f'{path} is not a NetCDF file of one array with the dimensions presentation and '
            f'neuroid and the coordinate stimulus_id or image_id ({error}).'
        ) from error

    def coordinates(dimension):
        return {str(k): c.values for k, c in array.coords.items() if c.dims == (dimension,)}

    _, first, image = np.unique(_text(ids), return_index=True, return_inverse=True)
    by_presentation = coordinates('presentation')
    repetition = pd.Series(image).groupby(image).cumcount().to_numpy()
    if 'repetition' in by_presentation:
        named = np.unique(by_presentation['repetition'], return_inverse=True)[1]
        if len(set(zip(image, named))) == len(image):  # or the names are ambiguous
            repetition = named
    responses = np.full((len(first), values.shape[1], repetition.max() + 1), np.nan)
    responses[image, :, repetition] = values
    by_image = {name: values[first] for name, values in by_presentation.items()}
    return responses, by_image | {'stimulus_id': ids[first]}, coordinates('neuroid')
