"""The files of CIFAR; that they become the right dataset is tested in prepare_test.py."""

import os
import pickle

import numpy as np
import pytest
import tiny_archives

from lcn_jax.data.builders import cifar
from lcn_jax.errors import UsageError


def refused(folder, files, message, name='cifar10'):
    source = tiny_archives.write_folder(folder / 'in', files)
    tiny_archives.check_refused(folder, name, source, message)


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize('where', ['data_batch_2', 'batches.meta'])
def test_a_pickle_cannot_run_code(tmp_path, protocol, where):
    evidence = tmp_path / 'evidence'
    call = Call(os.mkdir, str(evidence))
    pickle.loads(pickle.dumps(call, protocol))
    evidence.rmdir()  # it does run where it may
    files = tiny_archives.cifar10_python_files()
    files[where] = pickle.dumps(call, protocol)
    refused(tmp_path, files, rf'{where} cannot be read.*refers to \w+\.mkdir')
    assert not evidence.exists()


@pytest.mark.parametrize(
    'call',
    [Call(eval, '1'), Call(getattr, 'a', 'b'), Call(np.load, 'a'), Call(np.frombuffer, b'a')],
)
def test_a_pickle_cannot_import_other_functions(tmp_path, call):
    files = tiny_archives.cifar10_python_files() | {'test_batch': pickle.dumps(call)}
    refused(tmp_path, files, 'test_batch cannot be read.*refers to')


def batch(**changes):
    """A batch of four images, with some of its values changed; None takes one out."""
    rows = tiny_archives.cifar_rows(4, (10,), 0)
    values = {'labels': rows[:, 0].tolist(), 'data': rows[:, 1:].copy()} | changes
    return {key.encode(): value for key, value in values.items() if value is not None}


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        (batch(labels=[1, 2, 3]), 'is not a batch'),
        (batch(labels=[1, 2, 3, 'a']), 'is not a batch'),
        (batch(labels=[1, 2, 3, -1]), 'is not a batch'),
        (batch(labels=[1, 2, 3, 256]), 'is not a batch'),
        (batch(labels=[1, 2, 3, 10]), 'data_batch_1 is corrupt: there is no label 10'),
        (batch(labels=None), 'is not a batch'),
        (batch(data=None), 'is not a batch'),
        (batch(data=b'bytes'), 'is not a batch'),
        (batch(data=np.zeros((4, 3071), np.uint8)), 'is not a batch'),
        (batch(data=np.zeros((4, 3072), np.uint16)), 'is not a batch'),
        (batch(data=np.zeros((3072, 4), np.uint8).T), 'is not a batch'),
        (batch(labels=[], data=np.zeros((0, 3072), np.uint8)), 'is not a batch'),
        (['a list'], 'is not the pickle of a dictionary'),
        (3, 'is not the pickle of a dictionary'),
    ],
)
def test_other_pickles_are_refused(tmp_path, value, message):
    files = tiny_archives.cifar10_python_files()
    refused(tmp_path, files | {'data_batch_1': tiny_archives.python2_pickle(value)}, message)


@pytest.mark.parametrize(
    ('meta', 'message'),
    [
        ({}, 'has no list of label_names'),
        ({b'label_names': [1, 2]}, 'has no list of label_names'),
        ({b'label_names': b'0123456789'}, 'has no list of label_names'),
        ({b'label_names': [b'a']}, 'has 1 names for 10 classes'),
        ({b'label_names': [b'a'] * 10}, 'has 1 names for 10 classes'),
    ],
)
def test_wrong_names_of_classes_are_refused(tmp_path, meta, message):
    files = tiny_archives.cifar10_python_files()
    files['batches.meta'] = tiny_archives.python2_pickle(meta)
    refused(tmp_path, files, message)


@pytest.mark.parametrize(
    ('missing', 'message'),
    [
        ('data_batch_4', 'there is no parent/data_batch_4'),
        ('batches.meta', 'is neither the binary nor the Python version'),
    ],
)
def test_a_missing_file_is_named(tmp_path, missing, message):
    files = tiny_archives.cifar10_python_files()
    del files[missing]
    refused(tmp_path, tiny_archives.under('parent', files), message)


def test_the_python_version_of_cifar100_is_not_cifar10(tmp_path):
    files = tiny_archives.cifar100_python_files()
    refused(tmp_path, files, 'is neither the binary nor the Python version')


def test_names_of_the_binary_version_are_counted(tmp_path):
    files = tiny_archives.cifar100_files()
    files['coarse_label_names.txt'] += b'\none too many'
    refused(tmp_path, files, 'has 21 names for 20 classes', 'cifar100')


@pytest.mark.parametrize('change', ['cut', 'flipped'])
def test_damage_anywhere_is_refused_in_one_line(tmp_path, change):
    whole = tiny_archives.python2_pickle(batch(data=np.zeros((1, 3072), np.uint8), labels=[1]))
    assert (cifar._pickled_rows(whole, 'batch', cifar.Cifar10.labels)[0, :1] == 1).all()
    content = whole[:250] + whole[-60:]  # the pixels are of no interest
    for at in range(len(content)):
        flipped = content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]
        damaged = content[:at] if change == 'cut' else flipped
        with pytest.raises(UsageError, match=r'^batch '):
            cifar._pickled_rows(damaged, 'batch', cifar.Cifar10.labels)
