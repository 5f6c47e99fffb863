from pathlib import Path

import numpy as np
import pytest
import tiny_archives
from tiny_archives import write, write_folder

from lcn_jax.brain import stimuli
from lcn_jax.data.builders import archives
from lcn_jax.errors import UsageError

TARS = 'tar', 'tar.gz', 'tar.bz2', 'tar.xz'
FILES = {'a/1.png': b'one', 'a/b/2.png': b'two' * 700, 'notes.txt': b'three'}


def read(source: Path) -> dict[str, bytes]:
    with archives.files(source) as files:
        return {name: read_file() for name, read_file in files.items()}


@pytest.mark.parametrize('start', ['', './'])
@pytest.mark.parametrize('form', ['folder', 'zip', *TARS])
def test_files_are_the_same_in_all_forms_and_without_litter(tmp_path, form, start):
    def read_again(name, files):
        return read(write(tmp_path / name, {start + path: files[path] for path in files}, form))

    assert read_again('clean', FILES) == FILES
    litter = tiny_archives.littered(FILES)
    assert len(litter) > 20
    found = read_again('littered', litter)
    assert archives.lines(found.pop('notes.txt'), 'notes') == ['three']
    assert found == {name: content for name, content in FILES.items() if name != 'notes.txt'}


def test_a_tar_in_memory_has_no_litter():
    files = archives.files_in_tar(tiny_archives.tar(tiny_archives.littered(FILES)), 'inner')
    assert set(files) == set(FILES)
    assert files['a/1.png']() == b'one'


def test_links_to_folders_are_followed_and_a_hidden_parent_is_not_litter(tmp_path):
    real = write_folder(tmp_path / 'real', {'1.png': b'one'})
    source = write_folder(tmp_path / '.hidden' / 'images', {'2.png': b'two'})
    (source / 'linked').symlink_to(real, target_is_directory=True)
    assert read(source) == {'linked/1.png': b'one', '2.png': b'two'}


def test_a_broken_link_is_named(tmp_path):
    (tmp_path / 'lost.png').symlink_to(tmp_path / 'nowhere')
    with pytest.raises(UsageError, match=r'lost\.png cannot be read'):
        read(tmp_path)


@pytest.mark.parametrize('form', ['zip', *TARS])
def test_a_cut_archive_is_refused_or_complete(tmp_path, form):
    content = write(tmp_path / 'whole', FILES, form).read_bytes()
    path = tmp_path / 'cut'
    for length in np.linspace(0, len(content) - 1, 50, dtype=int):
        path.write_bytes(content[:length])
        try:
            assert read(path) == FILES
        except UsageError as error:
            assert '\n' not in str(error)
            assert str(path) in str(error)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError):
        read(path)


@pytest.mark.parametrize('form', ['zip', *TARS])
def test_a_flipped_bit_is_harmless_or_one_line(tmp_path, form):
    content = write(tmp_path / 'whole', FILES, form).read_bytes()
    path = tmp_path / 'flipped'
    for at in range(0, len(content), max(1, len(content) // 150)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        try:
            read(path)
        except UsageError as error:
            assert '\n' not in str(error)
            assert str(path) in str(error)


def test_an_encrypted_zip_is_named(tmp_path):
    path = write(tmp_path / 'locked.zip', {'1.png': b'one'}, 'zip')
    content = bytearray(path.read_bytes())
    for signature, flags in ((b'PK\3\4', 6), (b'PK\1\2', 8)):
        content[content.index(signature) + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r'locked\.zip cannot be read.*encrypted'):
        read(path)


def test_other_files_are_not_archives(tmp_path):
    with pytest.raises(UsageError, match=r'there is no \S*nowhere'):
        read(tmp_path / 'nowhere')
    (tmp_path / 'text').write_text('text')
    with pytest.raises(UsageError, match='text is not a folder, zip or tar archive'):
        read(tmp_path / 'text')


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
@pytest.mark.parametrize('end', ['\n', '\r\n', '\n \n\n'])
def test_lines(encoding, end):
    content = end.join(['première', ' second\t', '', 'a b']).encode(encoding)
    assert archives.lines(content, 'labels') == ['première', 'second', 'a b']


def test_lines_of_a_binary_file_are_refused():
    with pytest.raises(UsageError, match=r'labels\.txt is not a text file in UTF-8'):
        archives.lines(b'\xff\x80\x81', 'labels.txt')


def test_folders_with_a_file():
    files = dict.fromkeys(['names.txt', 'a/names.txt', 'a/other_names.txt', 'names.txt/b'])
    assert archives.folders_with('names.txt', files) == ['', 'a/']


@pytest.mark.parametrize('form', ['folder', 'zip'])
def test_stimuli_without_litter(tmp_path, form):
    assert stimuli.read(str(write(tmp_path / 'images', tiny_archives.littered(FILES), form))) == {
        'a/1.png': b'one',
        'a/b/2.png': b'two' * 700,
    }
