"""Reading what PyTorch wrote, without PyTorch, and refusing what is not weights."""

import pathlib
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from unified_fm.convert.errors import CheckpointFormatError
from unified_fm.convert.readers.npz_file import open_npz
from unified_fm.convert.readers.torch_file import open_torch
from unified_fm.convert.readers.torch_pickle import interpret

FILES = pathlib.Path(__file__).parent / "files"


@pytest.mark.parametrize("name", ["torch_training.pth", "torch_bare.bin", "torch_protocol4.pth"])
def test_every_tensor_equals_what_pytorch_saved(name):
    arrays = open_torch(FILES / name)
    with np.load(FILES / "torch_expected.npz", allow_pickle=False) as expected:
        assert set(arrays) == set(expected.files)
        for key in expected.files:
            assert arrays[key].dtype == expected[key].dtype, key
            np.testing.assert_array_equal(arrays[key], expected[key], err_msg=key, strict=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torch_legacy.pth", r"PyTorch before 1\.6.*torch\.save\(torch\.load\('OLD', weights_only"),
        ("torch_module.pth", "asks for 'torch.nn.modules.linear.Linear'.*nothing was run"),
        ("torch_expanded.pth", r"float32\[1000\] at element 0 needs more than the 4 bytes"),
        ("torch_expected.npz", "one data.pkl, this one 0"),
    ],
)
def test_what_is_refused(name, message):
    with pytest.raises(CheckpointFormatError, match=message):
        open_torch(FILES / name)


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


@pytest.mark.parametrize(
    ("program", "result"),
    [
        (b"\x80\x02}q\x00" + text("a") + b"K\x05s.", {"a": 5}),
        (b"\x80\x02(K\x01K\x02\x88Nt.", (1, 2, True, None)),
        (b"](K\x01M\x00\x02J\xff\xff\xff\xffe.", [1, 512, -1]),
        (b"\x8a\x06\x00\x00\x00\x00\x00\x01.", 2**40),
        (b"G\x3f\xf0\x00\x00\x00\x00\x00\x00.", 1.0),
        (text("x") + b"q\x05h\x05\x86.", ("x", "x")),
        (b"ccollections\nOrderedDict\n)R.", {}),
    ],
)
def test_plain_data(program, result):
    assert interpret(program, memory=10_000) == result


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"cos\nsystem\n(X\x02\x00\x00\x00lstR.", "asks for 'os.system'"),
        (text("builtins") + text("eval") + b"\x93" + text("1") + b"\x85R.", "'builtins.eval'"),
        (b"(X\x02\x00\x00\x00lsios\nsystem\n.", "opcode INST is refused"),
        (b")\x81.", "opcode NEWOBJ is refused"),
        (b"\x82\x01.", "opcode EXT1 is refused"),
        (b"ccollections\nOrderedDict\nK\x01\x85R.", "a call of collections.OrderedDict that does"),
        (b"ctorch\nFloatStorage\n)R.", "a call of torch.FloatStorage"),
        (b"K\x01)R.", "a call of something that is no function"),
        (b")Q.", "not to a storage of known type"),
        (b".", "empty stack"),
        (b"(0.", "opcode 0x30 is refused"),
        (b"h\x07.", "asks for value 7"),
        (b"K\x01K\x02.", "values left over"),
        (b"X\x00\x01\x00\x00ab.", "ends where 256 more bytes"),
        (b"}" + b")K\x01s.", "a tuple as key of a dict"),
        (b"]" * 100_000 + b".", "builds more than the file can need"),
        (b"(" * 100_000 + b".", "builds more than the file can need"),
        (b"]q\x00" + b"h\x00a" * 100_000 + b".", "builds more than the file can need"),
        (b"\x8a\xff" + b"\x00" * 255 + b".", "an integer of 255 bytes"),
    ],
)
def test_hostile_programs_are_refused_by_name(program, message):
    with pytest.raises(CheckpointFormatError, match=message):
        interpret(program, memory=1_000_000)


def test_19_nothing_runs_and_huge_storages_are_not_allocated(tmp_path, monkeypatch):
    """Faults row 19: os.system in a reduce, and a storage of 2**40 numbers."""
    monkeypatch.setattr("os.system", lambda command: pytest.fail("code of the file was run"))
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    storage += b"\x8a\x06\x00\x00\x00\x00\x00\x01tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00"
    tensor += b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85K\x01\x85\x89}tR"
    programs = {
        "asks for 'os.system'": b"}" + text("w") + b"cos\nsystem\n" + text("ls") + b"\x85Rs.",
        "should hold 1099511627776 x float32": b"}" + text("w") + tensor + b"s.",
    }
    for message, program in programs.items():
        with zipfile.ZipFile(tmp_path / "bad.pth", "w") as archive:
            archive.writestr("bad/data.pkl", program)
            archive.writestr("bad/data/0", b"\0\0\0\0")
        tracemalloc.start()
        with pytest.raises(CheckpointFormatError, match=message):
            open_torch(tmp_path / "bad.pth")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 200_000


def test_reading_takes_the_memory_of_one_tensor(tmp_path):
    """A file of sixteen 1 MiB tensors is read with little more than 1 MiB."""
    path = tmp_path / "large.npz"
    np.savez(path, **{f"w{i}": np.full((512, 512), i, np.float32) for i in range(16)})
    tracemalloc.start()
    arrays = open_npz(path)
    assert [arrays[f"w{i}"][0, 0] for i in range(16)] == list(range(16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * 2**20


def test_a_flipped_byte_of_a_tensor_is_found(tmp_path):
    data = bytearray((FILES / "torch_bare.bin").read_bytes())
    arrays = open_torch(FILES / "torch_bare.bin")
    data[arrays.entries["parameter"].block.start] ^= 1
    (tmp_path / "flipped.pth").write_bytes(data)
    with pytest.raises(CheckpointFormatError, match="'parameter': its bytes do not match"):
        open_torch(tmp_path / "flipped.pth")["parameter"]
