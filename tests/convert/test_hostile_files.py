"""No damaged or hostile file runs code, hangs, takes memory, or raises anything undocumented."""

import json
import os
import pathlib
import struct
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import hostile

from unified_fm.convert.errors import CheckpointFormatError
from unified_fm.convert.readers.npz_file import open_npz
from unified_fm.convert.readers.safetensors_file import open_safetensors
from unified_fm.convert.readers.weights import open_weights

MIB = 2**20


def read_all(path):
    """Opens a file and reads every array once; returns how many there were."""
    arrays = open_weights(path)
    return sum(1 for name in arrays if isinstance(arrays[name], np.ndarray))


def refuses(path):
    """Whether a reader refuses the file; any other exception comes through."""
    try:
        read_all(path)
    except CheckpointFormatError as error:
        assert len(str(error)) < 1000
        return True
    return False


def check(seed, folder):
    """One mutated file: right outcome, right numbers, under a second, bounded memory."""
    ending, data, must_refuse = hostile.mutated(seed)
    path = folder / f"file{ending}"
    path.write_bytes(data)
    start = time.process_time()
    refused = refuses(path)
    elapsed = time.process_time() - start
    assert refused or not must_refuse, f"seed {seed}: {ending} of {len(data)} bytes was read"
    assert elapsed < 1.0, f"seed {seed}: {elapsed:.2f} s"
    limit = 1.1 * max(len(data), MIB)
    assert (taken := memory_of(refuses, path)) < limit, f"seed {seed}: {taken} for {len(data)}"
    if not refused and (expected := hostile.expected(seed, path)) is not None:
        arrays = open_weights(path)
        assert set(arrays) == set(expected), f"seed {seed}"
        for name in arrays:
            found, wanted = arrays[name], expected[name]
            assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape), f"seed {seed}"
            assert found.tobytes() == wanted.tobytes(), f"seed {seed}: {name}"
    return refused


def memory_of(function, path):
    """Bytes that Python and NumPy held at most during `function(path)`."""
    tracemalloc.start()
    try:
        function(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture
def nothing_runs(monkeypatch):
    """Any of the calls that hostile pickles ask for fails the test."""
    for module, name in ((os, "system"), (os, "popen"), (subprocess, "Popen")):
        monkeypatch.setattr(module, name, lambda *a, **k: pytest.fail("code of the file was run"))


@pytest.mark.slow
def test_row_19_and_row_20_three_hundred_mutated_files(tmp_path, nothing_runs):
    refused = sum(check(seed, tmp_path) for seed in range(300))
    # Bit flips in padding or in the numbers of formats without checksums may go unnoticed.
    assert 200 < refused <= 300


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 13_000, 1500))
@pytest.mark.nightly
def test_D5_twelve_thousand_mutated_files(tmp_path, nothing_runs, first):
    refused = sum(check(seed, tmp_path) for seed in range(first, first + 1500))
    assert 1000 < refused < 1500


@pytest.mark.parametrize(("ending", "data"), hostile.large_files())
def test_files_from_one_mebibyte_on_take_a_tenth_more_memory(tmp_path, ending, data):
    """Hostile ones, that ask for as much structure as they can, and honest ones of one array."""
    path = tmp_path / f"large{ending}"
    path.write_bytes(data)
    assert len(data) >= MIB
    assert memory_of(refuses, path) < 1.1 * len(data)


def test_bfloat16_takes_its_float32(tmp_path):
    data = hostile.safetensors({"a": hostile.entry([MIB], 0, 2 * MIB, "BF16")}, bytes(2 * MIB))
    (tmp_path / "half.safetensors").write_bytes(data)
    assert memory_of(read_all, tmp_path / "half.safetensors") < 1.1 * 4 * MIB


def test_the_unchanged_files_are_read(tmp_path):
    for ending, data in hostile.good_files():
        (tmp_path / f"good{ending}").write_bytes(data)
        assert read_all(tmp_path / f"good{ending}") >= 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            hostile.safetensors(
                {"a": hostile.entry([2], 0, 8), "b": hostile.entry([2], 4, 12)}, bytes(12)
            ),
            "'b' starts at byte 4, expected 8: overlap or gap",
        ),
        (
            hostile.safetensors({"a": hostile.entry([2], 0, 8)}, bytes(4)),
            r"bytes 0\.\.8 are not in the file",
        ),
        (b"\0\0\0\6\0\0\0\0" + b"{" * 100, "a header of 100663296 bytes in a file of 108"),
        (
            hostile.safetensors({}, b"", raw=b'{"a":1,"a":2}'),
            "the header holds a name twice",
        ),
    ],
)
def test_row_20_safetensors_refusals_give_the_reason(tmp_path, data, message):
    (tmp_path / "bad.safetensors").write_bytes(data)
    with pytest.raises(CheckpointFormatError, match=message):
        open_safetensors(tmp_path / "bad.safetensors")


def test_objects_and_compressed_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "object.npz", a=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CheckpointFormatError, match="does not hold plain numbers"):
        open_npz(tmp_path / "object.npz")
    np.savez_compressed(tmp_path / "small.npz", a=np.zeros(4))
    with pytest.raises(CheckpointFormatError, match="write the file again without compression"):
        open_npz(tmp_path / "small.npz")


@pytest.mark.parametrize("program", hostile.PROGRAMS[:12])
def test_row_19_a_file_that_would_run_something_is_refused(tmp_path, nothing_runs, program):
    """Also one level down, where the weights are looked for."""
    for nested in (program, hostile.nested(program)):
        data = hostile.archive([("x/data.pkl", nested), ("x/data/0", b"1234")])
        (tmp_path / "evil.pth").write_bytes(data)
        with pytest.raises(CheckpointFormatError, match="pickle refused at byte"):
            open_weights(tmp_path / "evil.pth")


@pytest.mark.parametrize("size", [2**31, 2**62, 2**64 - 1])
def test_row_19_and_row_20_a_declared_size_that_is_not_there_takes_no_memory(tmp_path, size):
    tensor = hostile.tensor(size, where=0)
    header = struct.pack("<Q", size) + b"{}"
    files = {
        "a.pth": hostile.archive([("x/data.pkl", tensor), ("x/data/0", b"1234")]),
        "a.safetensors": hostile.safetensors({"w": hostile.entry([size], 0, 4 * size)}, b"1234"),
        "b.safetensors": header,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert refuses(tmp_path / name)
        assert memory_of(refuses, tmp_path / name) < MIB


def test_D5_an_array_without_elements_may_not_claim_sizes_that_no_memory_has(tmp_path):
    for shape in ([0, 2**62], [2**60, 0], [0, 2**31, 2**31], [0, 2**63]):
        data = hostile.safetensors({"w": hostile.entry(shape, 0, 0)}, b"")
        (tmp_path / "w.safetensors").write_bytes(data)
        with pytest.raises(CheckpointFormatError, match="not plausible"):
            read_all(tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "\ud800", "x" * 2000, "\x1b[2J"])
def test_D5_a_name_that_is_no_line_of_text_is_refused(tmp_path, name):
    data = hostile.safetensors({name: hostile.entry([1], 0, 4)}, b"1234")
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(CheckpointFormatError, match=r"an array named .*: refused"):
        open_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("..", "no name of a file in its folder"),
        ("../other.safetensors", "no name of a file in its folder"),
        ("/etc/passwd.safetensors", "no name of a file in its folder"),
        (".", "no name of a file in its folder"),
        ("a\0b.safetensors", "no name of a file in its folder"),
        ("\ud800.safetensors", "no name of a file in its folder"),
        ("x" * 5000 + ".safetensors", "no name of a file in its folder"),
        ("", "no name of a file in its folder"),
        ("self", "which cannot be read"),
        ("missing.safetensors", "which cannot be read"),
        ("model.safetensors.index.json", "unknown ending '.json'"),
    ],
)
def test_D5_an_index_points_to_files_of_its_own_folder_only(tmp_path, target, message):
    """Never to a folder: links, or the folder above, could lead in a circle."""
    folder = tmp_path / "inner"
    folder.mkdir()
    (folder / "self").symlink_to(folder)
    for place in (tmp_path, folder):
        index = json.dumps({"weight_map": {"w": target if place == folder else "inner"}})
        (place / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointFormatError, match=message):
        open_weights(folder)


def test_D5_what_is_not_there_is_one_kind_of_error(tmp_path):
    for path in ("none", "none.pth", "a\0b.npz"):
        with pytest.raises(FileNotFoundError, match="no file or folder of weights"):
            open_weights(tmp_path / path)
