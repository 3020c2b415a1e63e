"""A pickle interpreter that knows tensors and plain data, and runs nothing.

PyTorch describes the contents of a file by a pickle program. Here that program is read by hand: a
fixed set of opcodes builds strings, numbers, tuples, lists and dicts, and a name is accepted only
if it is one of `GLOBALS`. A "call" of such a name fills in a record of this module; no object of
the file is imported, constructed or called. Everything else is refused by name.
"""

import dataclasses
import struct
from collections.abc import Callable
from typing import Any, NoReturn

from unified_fm.convert.errors import CheckpointFormatError

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_DICT = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
GLOBALS = {_DICT, _TENSOR, _PARAMETER} | {f"torch.{name}" for name in _STORAGES}

# Names of opcodes that a pickle may hold and that are refused, for the message only.
_REFUSED = {
    **{b"i": "INST", b"o": "OBJ", b"\x81": "NEWOBJ", b"\x92": "NEWOBJ_EX"},
    **{b"\x82": "EXT1", b"\x83": "EXT2", b"\x84": "EXT4", b"P": "PERSID", b"I": "INT"},
    **{b"L": "LONG", b"S": "STRING", b"U": "SHORT_BINSTRING", b"T": "BINSTRING", b"V": "UNICODE"},
    **{b"C": "SHORT_BINBYTES", b"B": "BINBYTES", b"\x8b": "LONG4", b"\x8f": "EMPTY_SET"},
}


@dataclasses.dataclass(frozen=True, slots=True)
class Global:
    """An accepted name; it stands on the stack until it is "called"."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Storage:
    """A typed run of numbers in another entry of the archive."""

    key: str
    dtype: str
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """A view into a storage; nothing is checked yet."""

    storage: Storage
    offset: Any
    shape: Any
    strides: Any


def interpret(program: bytes, *, memory: int) -> Any:
    """Runs the program and returns the described structure of plain data and `Tensor` records.

    Args:
        program: the bytes of `data.pkl`.
        memory: bytes that the structure may take, estimated from above; a limit on what a small
            hostile program can build.

    Raises:
        CheckpointFormatError: the program is malformed, too large, or does something else.
    """
    try:
        return _Machine(program, memory).run()
    except (struct.error, UnicodeDecodeError, OverflowError) as error:
        raise CheckpointFormatError(f"damaged pickle: {error}") from error


class _Machine:
    """The stack machine: a value stack, the positions of marks in it, and a memo."""

    def __init__(self, program: bytes, memory: int):
        self.program, self.at = program, 0
        self.stack, self.marks, self.memo = [], [], {}
        self.memory = memory

    def run(self) -> Any:
        while True:
            if self.at >= len(self.program):
                self.fail("it ends without a result")
            code = self.program[self.at]
            self.at += 1
            if code == _STOP:
                result = self.pop()
                if self.stack or self.marks:
                    self.fail("it ends with values left over")
                return result
            operation = _OPERATIONS[code]
            if operation is None:
                self.fail(f"opcode {_REFUSED.get(bytes([code]), f'{code:#04x}')} is refused")
            self.spend(32)
            operation(self)

    def fail(self, why: str) -> NoReturn:
        raise CheckpointFormatError(f"pickle refused at byte {self.at}: {why}")

    def spend(self, size: int) -> None:
        self.memory -= size
        if self.memory < 0:
            self.fail("it builds more than the file can need")

    def take(self, size: int) -> bytes:
        data = self.program[self.at : self.at + size]
        if len(data) != size:
            self.fail(f"it ends where {size} more bytes should follow")
        self.at += size
        return data

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]

    def push(self, value: Any, size: int = 32) -> None:
        self.spend(size)
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.fail("it takes a value from an empty stack")
        return self.stack.pop()

    def pop_to_mark(self) -> list:
        if not self.marks:
            self.fail("it looks for a mark that is not there")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def top(self, kind: type) -> Any:
        value = self.stack[-1] if len(self.stack) > (self.marks[-1] if self.marks else 0) else None
        if type(value) is not kind:
            self.fail(f"a {kind.__name__} should be on the stack")
        return value

    def mark(self) -> None:
        self.spend(16)
        self.marks.append(len(self.stack))

    def text(self, size: int) -> None:
        self.spend(4 * size)
        self.push(self.take(size).decode("utf-8"), 64)

    def long(self) -> None:
        size = self.number("B")
        if size > 16:
            self.fail(f"an integer of {size} bytes")
        self.push(int.from_bytes(self.take(size), "little", signed=True), 48)

    def tuple(self, values: list) -> None:
        self.push(tuple(values), 56 + 8 * len(values))

    def put(self, index: int) -> None:
        if not self.stack:
            self.fail("it remembers a value of an empty stack")
        self.spend(120)
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memo:
            self.fail(f"it asks for value {index}, which it never stored")
        self.stack.append(self.memo[index])

    def set_items(self, values: list) -> None:
        target = self.top(dict)
        if len(values) % 2:
            self.fail("a key without a value")
        self.spend(100 * (len(values) // 2))
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Integers up to here never share a hash, which would make a dict slow on purpose.
            if type(key) is not str and not (type(key) is int and abs(key) < 2**60):
                self.fail(f"a {type(key).__name__} as key of a dict")
            target[key] = value

    def append(self, values: list) -> None:
        self.spend(16 * len(values))
        self.top(list).extend(values)

    def name(self, module: Any, name: Any) -> None:
        full = f"{module}.{name}" if type(module) is type(name) is str else "something unnamed"
        if full not in GLOBALS:
            self.fail(f"it asks for {full[:200]!r}, which is not a tensor; nothing was run")
        self.push(Global(full), 100)

    def line(self) -> str:
        end = self.program.find(b"\n", self.at, self.at + 256)
        if end < 0:
            self.fail("a name without an end")
        text = self.program[self.at : end].decode("utf-8")
        self.at = end + 1
        return text

    def persistent(self) -> None:
        what = self.pop()
        fits = (
            type(what) is tuple
            and len(what) == 5
            and what[0] == "storage"
            and type(what[1]) is Global
            and what[1].name.removeprefix("torch.") in _STORAGES
            and type(what[2]) is str
            and type(what[4]) is int
        )
        if not fits:
            self.fail("a reference that is not to a storage of known type")
        dtype = _STORAGES[what[1].name.removeprefix("torch.")]
        self.push(Storage(what[2], dtype, what[4]), 100)

    def reduce(self) -> None:
        args, function = self.pop(), self.pop()
        name = function.name if type(function) is Global else "something that is no function"
        if type(args) is not tuple:
            self.fail(f"a call of {name} without arguments")
        if name == _DICT and args == ():
            self.push({}, 232)
        elif name == _TENSOR and len(args) in (6, 7) and type(args[0]) is Storage:
            self.push(Tensor(*args[:4]), 100)
        elif name == _PARAMETER and len(args) == 3 and type(args[0]) is Tensor:
            self.push(args[0])
        else:
            self.fail(f"a call of {name} that does not make a tensor")

    def build(self) -> None:
        """PyTorch hangs version notes on a state dict as an attribute; they are dropped."""
        if type(self.pop()) is not dict:
            self.fail("attributes of something that is no dict")
        self.top(dict)


_NAMED: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.take(1),  # PROTO
    b"\x95": lambda m: m.take(8),  # FRAME
    b"(": _Machine.mark,
    b"}": lambda m: m.push({}, 64),
    b"]": lambda m: m.push([], 64),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.tuple(m.pop_to_mark()),
    b"\x85": lambda m: m.tuple([m.pop()]),
    b"\x86": lambda m: m.tuple([m.pop(), m.pop()][::-1]),
    b"\x87": lambda m: m.tuple([m.pop(), m.pop(), m.pop()][::-1]),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number("B")),
    b"M": lambda m: m.push(m.number("H")),
    b"J": lambda m: m.push(m.number("i")),
    b"\x8a": _Machine.long,
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"X": lambda m: m.text(m.number("I")),
    b"\x8c": lambda m: m.text(m.number("B")),
    b"q": lambda m: m.put(m.number("B")),
    b"r": lambda m: m.put(m.number("I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"h": lambda m: m.get(m.number("B")),
    b"j": lambda m: m.get(m.number("I")),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.set_items(m.pop_to_mark()),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.pop_to_mark()),
    b"c": lambda m: m.name(m.line(), m.line()),
    b"\x93": lambda m: m.name(*[m.pop(), m.pop()][::-1]),
    b"Q": _Machine.persistent,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
}
_OPERATIONS = [_NAMED.get(bytes([code])) for code in range(256)]
_STOP = ord(".")
