"""Examples through memory: what arrives is what was written."""

import os
import socket

import numpy as np
import pytest

from unified_fm.data import shared_memory

IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


class Both:
    """A writer and its reader."""

    def __init__(self):
        self.writer, self.memory = shared_memory.Writer(), {}

    def passed(self, examples, piece=0):
        here, there = socket.socketpair()
        with here, there:
            written = self.writer.write(piece, examples)
            if written.file is not None:
                shared_memory.send(here, written.file)
                with pytest.raises(OSError):
                    os.fstat(written.file)  # only the memory itself is left
                self.memory[piece] = shared_memory.receive(there)
        return shared_memory.examples(written.described, self.memory[written.piece])


def test_examples_with_the_same_arrays_come_as_rows():
    made = [
        {
            "image": IMAGE + k,
            "turned": (IMAGE + k)[:, ::-1],
            "id": np.int32(k),
            "ok": np.array(k > 0),
        }
        for k in range(3)
    ]
    found = Both().passed(made)
    assert len(found) == 3 and found[1]["image"].base is not None
    for example, expected in zip(found, made, strict=True):
        assert example.keys() == expected.keys() and type(example["id"]) is np.int32
        for name, array in expected.items():
            np.testing.assert_array_equal(example[name], array)
            assert example[name].dtype == array.dtype


def test_all_else_arrives_too():
    made = [
        {
            "image": IMAGE,
            "rows": {"a": IMAGE[:0]},
            "id": np.int32(7),
            "names": np.array(["a", "b"]),
        },
        None,
        {"text": "x", "image": IMAGE[:1], "half": np.float32(0.5)},
    ]
    first, none, last = Both().passed(made)
    assert none is None and last["text"] == "x"
    np.testing.assert_array_equal(first["image"], IMAGE)
    assert first["rows"]["a"].shape == (0, 4, 3) and first["names"].tolist() == ["a", "b"]
    assert first["id"] == 7 and type(first["id"]) is np.int32
    assert type(last["half"]) is np.float32 and last["image"].shape == (1, 4, 3)


def test_memory_is_used_again_and_grows():
    both = Both()
    first = both.passed([{"a": np.full(1000, 1)}])[0]["a"]
    memory = both.memory[0]
    assert not first.flags.writeable
    kept = shared_memory.own({"b": {"a": first}, "c": IMAGE})
    assert both.passed([{"a": np.full(900, 2)}])[0]["a"].tolist() == [2] * 900
    assert both.memory[0] is memory and first[0] == 2  # what lay there is gone
    assert kept["b"]["a"].tolist() == [1] * 1000 and kept["c"] is IMAGE
    large = both.passed([{"a": np.full(90_000, 3)}])[0]["a"]
    assert both.memory[0] is not memory and (large == 3).all()
    other = both.passed([{"a": np.full(5, 4)}], piece=1)[0]["a"]
    assert other.tolist() == [4] * 5 and (large == 3).all()


def test_the_end_of_the_other_side_is_told():
    here, there = socket.socketpair()
    there.close()
    with here, pytest.raises(EOFError):
        shared_memory.receive(here)
