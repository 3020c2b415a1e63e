"""Examples from one process to another, through memory that both see and that is used again.

The arrays lie in files without a name, whose descriptors go through a socket once. So nothing is
left behind by a process that is killed, and nothing is in /dev/shm, which is small in containers.
"""

import math
import mmap
import os
import socket
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_ALIGNMENT = 64  # bytes; of an array's beginning
_ROOM = 1.25  # of what a piece has first to hold: later ones may be a little larger
_BYTE = b"f"  # what a descriptor travels with


class _Array(NamedTuple):
    """Where an array lies. `scalar`: it is one of NumPy's numbers."""

    start: int
    dtype: str
    shape: tuple[int, ...]
    scalar: bool


class _Rows(NamedTuple):
    """Examples with the same arrays, each of which lies in one with a row for every example."""

    arrays: dict[str, _Array]
    count: int


class Written(NamedTuple):
    """What is said of examples that were written.

    Attributes:
        described: the examples, with marks in place of their arrays.
        piece: the number of the memory that they lie in.
        file: its descriptor, to be passed on, if the other side has not got it yet.
    """

    described: Any
    piece: int
    file: int | None


class Writer:
    """The memory of one process in numbered pieces, to be written again and again."""

    def __init__(self):
        self._pieces: dict[int, np.ndarray] = {}

    def write(self, piece: int, examples: list[Any]) -> Written:
        """Copies the arrays of examples, dicts, into a piece, over what lay in it."""
        values: list[tuple[int, Any]] = []
        described, size = _as_rows(examples, values) or _describe(examples, values, 0)
        file = None
        if piece not in self._pieces or len(self._pieces[piece]) < size:
            file = anonymous()
            os.ftruncate(file, max(mmap.PAGESIZE, int(_ROOM * size)))
            self._pieces[piece] = np.frombuffer(mmap.mmap(file, 0), np.uint8)
        memory = self._pieces[piece]
        for start, value in values:
            flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            memory[start : start + len(flat)] = flat
        return Written(described, piece, file)


def send(over: socket.socket, file: int) -> None:
    """Passes the memory with this descriptor on; here it is closed.

    Raises:
        ConnectionError: the other side has ended.
    """
    try:
        socket.send_fds(over, [_BYTE], [file])
    finally:
        os.close(file)


def receive(over: socket.socket) -> mmap.mmap:
    """The memory that comes next, to be read only.

    Raises:
        EOFError: the other side has ended.
    """
    found, files, _, _ = socket.recv_fds(over, len(_BYTE), 1)
    if found != _BYTE or not files:
        raise EOFError("no memory came")
    try:
        return mmap.mmap(files[0], 0, prot=mmap.PROT_READ)
    finally:
        os.close(files[0])


def examples(described: Any, memory: mmap.mmap) -> Any:
    """The examples that `Writer.write` has described; their arrays lie in `memory`."""
    if isinstance(described, _Rows):
        arrays = {name: examples(mark, memory) for name, mark in described.arrays.items()}
        return [{name: a[row] for name, a in arrays.items()} for row in range(described.count)]
    if isinstance(described, _Array):
        dtype, count = np.dtype(described.dtype), math.prod(described.shape)
        array = np.frombuffer(memory, dtype, count, described.start).reshape(described.shape)
        return array[()].copy() if described.scalar else array
    if isinstance(described, dict):
        return {name: examples(value, memory) for name, value in described.items()}
    if isinstance(described, list):
        return [examples(value, memory) for value in described]
    return described


def own(tree: Any) -> Any:
    """Nested dicts of arrays, none of which lies in memory that cannot be written."""
    if isinstance(tree, Mapping):
        return {name: own(value) for name, value in tree.items()}
    if isinstance(tree, np.ndarray) and not tree.flags.writeable:
        return tree.copy()
    return tree


def anonymous() -> int:
    """The descriptor of a file without a name."""
    if sys.platform == "linux":
        return os.memfd_create("unified_fm", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _as_rows(found: list[Any], values: list[tuple[int, Any]]) -> tuple[_Rows, int] | None:
    """Marks and bytes of examples that have the same arrays, all in plain dicts; else None."""
    if not found or not isinstance(found[0], dict):
        return None
    kinds = {name: _kind(value) for name, value in found[0].items()}
    if None in kinds.values():
        return None
    for example in found:
        if example.keys() != kinds.keys():
            return None
        if any(_kind(example[name]) != kind for name, kind in kinds.items()):
            return None
    marks, size = {}, 0
    for name, value in found[0].items():
        marks[name] = _Array(size, value.dtype.str, (len(found), *value.shape), False)
        for example in found:
            values.append((size, example[name]))
            size += value.nbytes
        size += -size % _ALIGNMENT
    return _Rows(marks, len(found)), size


def _kind(value: Any) -> tuple[Any, ...] | None:
    """Type, dtype and shape of an array; None: it is none that can be copied."""
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        return value.dtype, value.shape
    return None


def _describe(tree: Any, values: list[tuple[int, Any]], size: int) -> tuple[Any, int]:
    """Marks for arrays, whose places begin behind `size` bytes; and the bytes then."""
    if isinstance(tree, dict):
        marks: dict[Any, Any] = {}
        for name, value in tree.items():
            marks[name], size = _describe(value, values, size)
        return marks, size
    if isinstance(tree, list):
        listed = []
        for value in tree:
            mark, size = _describe(value, values, size)
            listed.append(mark)
        return listed, size
    if _kind(tree) is None:
        return tree, size
    values.append((size, tree))
    mark = _Array(size, tree.dtype.str, tree.shape, isinstance(tree, np.generic))
    return mark, size + tree.nbytes + -tree.nbytes % _ALIGNMENT
