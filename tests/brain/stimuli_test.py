"""Images in archives, in order and by name."""

import zipfile

import numpy as np
import pytest
from tiny_archives import encode

from lcn_jax.brain import stimuli
from lcn_jax.data.builders import encoded
from lcn_jax.errors import UsageError


class TestStimuli:
    def test_order_of_numbers_and_choice_by_name(self, tmp_path):
        with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
            for name in ('a/im10.png', 'a/im2.png', 'b/im1.JPG', 'readme.txt', 'b/im2.png'):
                archive.writestr(name, name)
        files = stimuli.read(str(tmp_path / 'a.zip'))
        assert list(files) == ['a/im2.png', 'a/im10.png', 'b/im1.JPG', 'b/im2.png']
        assert list(stimuli.choose(files, ['im1', 'im10.png', 'b/im2.png'])) == [
            'b/im1.JPG', 'a/im10.png', 'b/im2.png',
        ]  # fmt: skip
        for name, count in (('im2', 2), ('im3', 0)):
            with pytest.raises(UsageError, match=f'there are {count} images called {name}'):
                stimuli.choose(files, [name])

    @pytest.mark.parametrize('names', [('im1', 'im1'), ('im1', 'im1.png')])
    def test_an_image_that_is_named_twice_is_refused(self, names):
        with pytest.raises(UsageError, match=rf'name the image im1\.png twice, .* as {names[1]}:'):
            stimuli.choose({'im1.png': b'', 'im2.png': b''}, names)

    def test_a_file_that_is_not_an_image_is_named(self, images):
        np.testing.assert_array_equal(encoded.decode(encode(images[0]), 'x.png'), images[0])
        with pytest.raises(UsageError, match=r'x\.png is not a whole image'):
            encoded.decode(encode(images[0])[:-30], 'x.png')
