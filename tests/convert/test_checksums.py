"""Archives carry a checksum of every entry: no damaged byte of an array is ever handed out."""

import io
import pathlib

import numpy as np
import pytest

from unified_fm.convert.errors import CheckpointFormatError
from unified_fm.convert.readers.weights import open_weights

FILES = pathlib.Path(__file__).parent / "files"
ARRAYS = {
    "plain": np.arange(12, dtype=np.float32).reshape(3, 4),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 4), np.float32),
    "scalar": np.float32(3),
    "flags": np.array([True, False]),
}


def npz():
    """A file of NumPy with a few small arrays."""
    file = io.BytesIO()
    np.savez(file, **ARRAYS)
    return file.getvalue()


def outcome(path, data, expected):
    """'refused', 'equal' to what was saved, or 'wrong'."""
    path.write_bytes(data)
    try:
        arrays = open_weights(path)
        found = {name: arrays[name] for name in arrays}
    except CheckpointFormatError:
        return "refused"
    same = found.keys() == expected.keys() and all(
        (found[name].dtype, found[name].shape, found[name].tobytes())
        == (np.asarray(array).dtype, np.shape(array), np.asarray(array).tobytes())
        for name, array in expected.items()
    )
    return "equal" if same else "wrong"


def test_D2_no_flipped_bit_of_an_npz_file_loads_as_other_numbers(tmp_path):
    good, path = npz(), tmp_path / "x.npz"
    assert outcome(path, good, ARRAYS) == "equal"
    found = {"refused": 0, "equal": 0, "wrong": 0}
    for at in range(len(good)):
        data = bytearray(good)
        data[at] ^= 1 << at % 8
        found[outcome(path, bytes(data), ARRAYS)] += 1
    # What may be hit without harm: dates, attributes, comments of the archive.
    assert found["wrong"] == 0 and found["refused"] > 0.7 * len(good), found


def test_D2_no_flipped_bit_of_a_torch_file_loads_as_other_numbers(tmp_path):
    good, path = (FILES / "torch_training.pth").read_bytes(), tmp_path / "x.pth"
    with np.load(FILES / "torch_expected.npz", allow_pickle=False) as file:
        expected = {name: file[name] for name in file.files}
    assert outcome(path, good, expected) == "equal"
    flips = range(0, len(good), max(1, len(good) // 800))
    for at in flips:
        data = bytearray(good)
        data[at] ^= 1 << at % 8
        assert outcome(path, bytes(data), expected) != "wrong", at


@pytest.mark.parametrize("order", ["C", "F"])
def test_D2_an_array_of_many_pieces_is_checked_and_named(tmp_path, order):
    path = tmp_path / "x.npz"
    np.savez(path, good=np.ones(9, np.float32), large=np.ones((300, 700), np.float32, order=order))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    arrays = open_weights(path)
    assert arrays["good"].sum() == 9
    with pytest.raises(CheckpointFormatError, match="'large': its bytes do not match the checksum"):
        arrays["large"]


def test_D2_bytes_behind_the_last_element_are_checked_too(tmp_path):
    """A shape that became smaller by damage leaves bytes unread; the checksum covers them."""
    path = tmp_path / "x.npz"
    np.savez(path, a=np.arange(9, dtype=np.float32))
    path.write_bytes(path.read_bytes().replace(b"(9,)", b"(8,)"))
    with pytest.raises(CheckpointFormatError, match="do not match the checksum"):
        open_weights(path)["a"]
