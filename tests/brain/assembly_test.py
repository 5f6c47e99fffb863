"""Responses of neurons, read from files of all formats."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest

from lcn_jax.brain import assembly
from lcn_jax.errors import UsageError

rng = np.random.default_rng


class TestAssembly:
    def save(self, tmp_path, **arrays):
        np.savez(tmp_path / 'a.npz', **arrays)
        return str(tmp_path / 'a.npz')

    def test_axes_and_missing_repetitions(self, tmp_path):
        """One neuron has two repetitions of one image, so the first two of each are kept."""
        responses = rng(0).normal(size=(3, 4, 5))  # neurons, images, repetitions
        responses[1, 2, [0, 2, 4]] = np.nan
        responses[0, 0, 1] = np.nan
        path = self.save(tmp_path, responses=responses, kind=np.arange(4), region=list('aab'))
        found = assembly.read(path, ('neuroids', 'stimuli', 'repetitions'), group='kind')
        assert found.responses.shape == (4, 3, 2)
        np.testing.assert_array_equal(found.responses[2, 1], responses[1, 2, [1, 3]])
        np.testing.assert_array_equal(found.responses[0, 0], responses[0, 0, [0, 2]])
        np.testing.assert_array_equal(found.responses[3, 2], responses[2, 3, :2])
        np.testing.assert_array_equal(found.region('b'), found.responses[:, 2:])
        assert found.groups.tolist() == [0, 1, 2, 3] and found.stimuli is None

    @pytest.mark.parametrize('kind', ['U', 'S'])
    def test_images_are_in_the_order_of_their_names(self, tmp_path, kind):
        """Also where the names are bytes."""
        responses = rng(0).normal(size=(4, 2, 3))
        ids = np.array(['b', 'é', 'a10', 'a9'])
        encoded = np.char.encode(ids, 'utf-8') if kind == 'S' else ids
        regions = np.array(['V4', 'IT']).astype(kind)
        path = self.save(
            tmp_path, responses=responses, stimulus_id=encoded, region=regions, kind=np.arange(4)
        )
        found = assembly.read(path, group='kind')
        assert found.stimuli.tolist() == ['a10', 'a9', 'b', 'é']
        assert found.regions.tolist() == ['V4', 'IT']
        assert found.groups.tolist() == [2, 3, 0, 1]
        np.testing.assert_array_equal(found.responses, responses[[2, 3, 0, 1]])

    @pytest.mark.parametrize(
        'change, message',
        [
            (dict(responses=np.zeros((4, 3))), 'three axes'),
            (dict(responses=np.zeros((4, 0, 2))), r'shape \(4, 0, 2\).* none of them empty'),
            (dict(responses=np.full((4, 3, 2), 'x')), 'must be numbers'),
            (dict(group='kind'), "no 'kind' for each image; it has name"),
            (dict(axes=('stimuli', 'time', 'repetitions')), 'they must be stimuli, neuroids'),
            (dict(responses=np.full((4, 3, 2), np.nan)), 'fewer than two'),
            (dict(responses=np.full((4, 3, 2), np.inf)), 'infinite responses'),
            (
                dict(stimulus_id=np.ones((4, 1))),
                r'`stimulus_id` of shape \(4, 1\); with one for each image it',
            ),
            (dict(region=np.ones(4)), r'one for each neuron it would be \(3,\)\. Are the axes'),
        ],
    )
    def test_bad_content_is_refused(self, tmp_path, change, message):
        arrays = {'responses': np.zeros((4, 3, 2))}
        for name in ('responses', 'stimulus_id', 'region'):
            if name in change:
                arrays[name] = change.pop(name)
        path = self.save(tmp_path, **arrays, name=list('wxyz'))
        with pytest.raises(UsageError, match=message):
            assembly.read(path, **change)

    def test_missing_and_invalid_files(self, tmp_path):
        with pytest.raises(UsageError, match='there is no file'):
            assembly.read(str(tmp_path / 'a.npz'))
        whole = Path(self.save(tmp_path, responses=rng(0).normal(size=(4, 3, 2)))).read_bytes()
        array = io.BytesIO()
        np.save(array, np.zeros((4, 3, 2)))
        pickled = io.BytesIO()
        np.savez(pickled, responses=np.array([{}, None]))
        for content in (b'', b'hello', whole[:-30], array.getvalue(), pickled.getvalue()):
            (tmp_path / 'b.npz').write_bytes(content)
            with pytest.raises(UsageError, match=r'b\.npz is not a valid npz file'):
                assembly.read(str(tmp_path / 'b.npz'))
        flipped = bytearray(whole)
        flipped[200] ^= 1  # a bit of the array, which the checksum covers
        (tmp_path / 'b.npz').write_bytes(flipped)
        with pytest.raises(UsageError, match='Bad CRC-32'):
            assembly.read(str(tmp_path / 'b.npz'))

    def test_npz_and_netcdf_give_the_same(self, tmp_path):
        xarray = pytest.importorskip('xarray')
        responses, ids = rng(0).normal(size=(3, 2, 2)), ['im2', 'im10', 'im1']
        path = self.save(tmp_path, responses=responses, stimulus_id=ids, region=['V4', 'IT'])
        array = xarray.DataArray(
            responses.transpose(2, 0, 1).reshape(6, 2),
            dims=('presentation', 'neuroid'),
            coords={
                'stimulus_id': ('presentation', np.array(ids * 2, 'S')),
                'region': ('neuroid', ['V4', 'IT']),
            },
        )
        array.to_netcdf(tmp_path / 'a.nc')
        found, other = assembly.read(path), assembly.read(str(tmp_path / 'a.nc'))
        np.testing.assert_array_equal(found.responses, other.responses)
        np.testing.assert_array_equal(found.stimuli, other.stimuli)
        np.testing.assert_array_equal(found.regions, other.regions)

    @pytest.mark.parametrize('ids', ['stimulus_id', 'image_id'])
    def test_netcdf(self, tmp_path, ids):
        """Presentations are in any order, and one image has more of them than the others."""
        xarray = pytest.importorskip('xarray')
        responses = rng(0).normal(size=(3, 2, 2))  # images, neurons, repetitions
        order = [(2, 0), (0, 0), (1, 0), (0, 1), (2, 1), (1, 1), (0, 0)]
        array = xarray.DataArray(
            np.array([responses[image, :, repetition] for image, repetition in order]).T[..., None],
            dims=('neuroid', 'presentation', 'time_bin'),
            coords={
                ids: ('presentation', [f'im{image}' for image, _ in order]),
                'object_name': ('presentation', [f'object{image % 2}' for image, _ in order]),
                'region': ('neuroid', ['V4', 'IT']),
            },
        )
        array.to_netcdf(tmp_path / 'a.nc')
        found = assembly.read(str(tmp_path / 'a.nc'), group='object_name')
        third = np.full((3, 2, 1), np.nan)
        third[0, :, 0] = responses[0, :, 0]
        np.testing.assert_array_equal(found.responses, np.append(responses, third, axis=2))
        assert found.stimuli.tolist() == ['im0', 'im1', 'im2']
        assert found.groups.tolist() == ['object0', 'object1', 'object0']
        assert found.regions.tolist() == ['V4', 'IT']

    def test_netcdf_with_names_of_repetitions(self, tmp_path):
        """An image that was not shown in the first session has no first repetition."""
        xarray = pytest.importorskip('xarray')
        array = xarray.DataArray(
            [[1.0], [2.0], [3.0]],
            dims=('presentation', 'neuroid'),
            coords={
                'stimulus_id': ('presentation', ['b', 'a', 'a']),
                'repetition': ('presentation', [7, 7, 5]),
            },
        )
        array.to_netcdf(tmp_path / 'a.nc')
        found = assembly.read(str(tmp_path / 'a.nc'))
        np.testing.assert_array_equal(found.responses[:, 0], [[3, 2], [np.nan, 1]])

    def test_netcdf_without_names_of_images(self, tmp_path):
        xarray = pytest.importorskip('xarray')
        array = xarray.DataArray(np.zeros((3, 1)), dims=('presentation', 'neuroid'))
        array.to_netcdf(tmp_path / 'a.nc')
        with pytest.raises(UsageError, match='the coordinate stimulus_id or image_id'):
            assembly.read(str(tmp_path / 'a.nc'))

    def test_netcdf_without_xarray(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, 'xarray', None)
        (tmp_path / 'a.nc').touch()
        with pytest.raises(UsageError, match=r"pip install 'lcn_jax\[netcdf\]'"):
            assembly.read(str(tmp_path / 'a.nc'))
