"""Damaged and hostile files, made from a seed: the input of `test_hostile_files.py`."""

import io
import json
import pathlib
import random
import struct
import zipfile

import numpy as np

FILES = pathlib.Path(__file__).parent / "files"

PROGRAMS = [
    b"cos\nsystem\n(X\x04\x00\x00\x00truetR.",
    b"cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
    b"cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
    b"csubprocess\nPopen\nX\x04\x00\x00\x00true\x85R.",
    b"\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    b"(X\x04\x00\x00\x00trueios\nsystem\n.",
    b"(cos\nsystem\nX\x04\x00\x00\x00trueo.",
    b"ccollections\nOrderedDict\n)\x81.",
    b"c__builtin__\ngetattr\nctorch\nFloatStorage\nX\x07\x00\x00\x00__doc__\x86R.",
    b"ctorch\nload\nX\x01\x00\x00\x00x\x85R.",
    b"ctorch.serialization\nload\nX\x01\x00\x00\x00x\x85R.",
    b"c_codecs\nencode\nX\x01\x00\x00\x00x\x85R.",
    b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".",
    b"r\xff\xff\xff\xff.",
    b"]" * 300_000 + b".",
    b"(" * 300_000 + b".",
    b"}q\x00" + b"h\x00" * 300_000 + b".",
    b"]q\x00" + b"(" + b"h\x00" * 60 + b"e" + b".",
    b"K\x01" + b"\x85" * 200_000 + b".",
    b"".join(b"]q" + bytes([n + 1]) + b"(" + b"h" + bytes([n]) * 1 + b"e" for n in range(99))
    + b".",
]


def archive(members, *, compression=zipfile.ZIP_STORED) -> bytes:
    """A zip file of (name, content) pairs; the checksums are right."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, content in members:
            file.writestr(zipfile.ZipInfo(name), content, compression)
    return out.getvalue()


def members(data: bytes) -> list[tuple[str, bytes]]:
    """The (name, content) pairs of a zip file."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return [(name, file.read(name)) for name in file.namelist()]


def safetensors(entries: dict, data: bytes, *, raw: bytes | None = None) -> bytes:
    """A safetensors file of a header, right or wrong, and data."""
    header = json.dumps(entries).encode() if raw is None else raw
    return struct.pack("<Q", len(header)) + header + data


def entry(shape, first, last, dtype="F32") -> dict:
    """One value of a safetensors header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def good_files() -> list[tuple[str, bytes]]:
    """(ending, bytes) of one good file of each kind."""
    shapes = {"a": entry([2, 3], 0, 24), "b": entry([4], 24, 32, "F16")}
    return [
        (".pth", (FILES / "torch_training.pth").read_bytes()),
        (".bin", (FILES / "torch_protocol4.pth").read_bytes()),
        (".npz", (FILES / "torch_expected.npz").read_bytes()),
        (".safetensors", safetensors(shapes, bytes(range(32)))),
    ]


def large_files() -> list[tuple[str, bytes]]:
    """(ending, bytes) of files of 1 MiB and more, by what fills them."""
    mib = 2**20
    column = io.BytesIO()
    np.savez(column, a=np.zeros((mib // 8, 2), np.float32, order="F"))
    one = {"a": entry([mib // 4], 0, mib)}
    lists = b'{"a":[' + b"[]," * (mib // 3) + b"1]}"
    empty = b",".join(
        b'"%d":{"dtype":"F32","shape":[],"data_offsets":[0,0]}' % n for n in range(1500)
    )
    programs = [b"]" * mib, b"(" * mib, b"}" + b"\x94" * mib, b"\x8c\x02ab" * (mib // 4)]
    return [
        (".npz", column.getvalue()),
        (".safetensors", safetensors(one, bytes(mib))),
        (".safetensors", safetensors({}, b"", raw=lists)),
        (".safetensors", safetensors({}, bytes(mib), raw=b"{" + empty + b"}")),
        *((".pth", archive([("x/data.pkl", p + b"."), ("x/data/0", b"1234")])) for p in programs),
        (".pth", archive([("x/data.pkl", programs[0]), ("x/data/0", bytes(mib))])),
        (".npz", archive([(f"{n:06d}.npy", b"") for n in range(12_000)])),
    ]


def mutated(seed: int) -> tuple[str, bytes, bool]:
    """One file: its ending, its bytes, and whether a reader must refuse it."""
    return _kind(seed)(random.Random(seed))


def _kind(seed):
    kinds = [_flip, _cut, _splice, _flip_inside, _program, _declare, _bomb, _path, _json, _header]
    return kinds[seed % len(kinds)]


def expected(seed: int, path: pathlib.Path) -> dict[str, np.ndarray] | None:
    """The arrays that a file of `mutated` must give if it is read at all; None = no telling.

    Checksums protect what archives hold, so a damaged one gives what was saved. Of safetensors,
    and of archives made anew with right checksums, another reader tells what they hold now.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path.read_bytes())
    if _kind(seed) in (_flip, _splice, _cut):
        saved = dict(good_files())[path.suffix]
        found = np.load(io.BytesIO((FILES / "torch_expected.npz").read_bytes()))
        if path.suffix == ".npz":
            assert saved == (FILES / "torch_expected.npz").read_bytes()
        return {name: found[name] for name in found.files}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return {name: _widened(file[name]) for name in file.files}
    return None


def read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """What a safetensors file holds, read without any check."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    codes = {"F": "<f", "I": "<i", "U": "<u"}
    arrays = {}
    for name, fields in header.items():
        first, last = (8 + length + at for at in fields["data_offsets"])
        code = fields["dtype"]
        dtype = {"BOOL": "?", "BF16": "V2"}.get(code) or f"{codes[code[0]]}{int(code[1:]) // 8}"
        array = np.frombuffer(data[first:last], dtype).reshape(fields["shape"])
        arrays[name] = _widened(array)
    return arrays


def _widened(array):
    """Two-byte records are bfloat16, which is the upper half of a float32."""
    if array.dtype.kind != "V":
        return array
    return (array.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _flip(rng):
    """Some bits anywhere: may hit padding, so reading may also succeed."""
    ending, data = rng.choice(good_files())
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return ending, bytes(data), False


def _cut(rng):
    ending, data = rng.choice(good_files())
    return ending, data[: rng.randrange(len(data))], True


def _splice(rng):
    """A run of bytes replaced by another run of the file, or by noise."""
    ending, data = rng.choice(good_files())
    data, size = bytearray(data), rng.randrange(1, 200)
    at, source = rng.randrange(len(data)), rng.randrange(len(data))
    data[at : at + size] = (
        data[source : source + size] if rng.random() < 0.5 else rng.randbytes(size)
    )
    return ending, bytes(data), False


def _flip_inside(rng):
    """Bits of the pickle or of an array's header, with right checksums: reaches the interpreter."""
    ending, data = rng.choice(good_files()[:3])
    parts = dict(members(data))
    name = rng.choice([n for n in parts if n.endswith((".pkl", ".npy"))])
    content = bytearray(parts[name])
    for _ in range(rng.choice([1, 2, 5, 20])):
        content[rng.randrange(min(len(content), 4000))] = rng.randrange(256)
    parts[name] = bytes(content)
    return ending, archive(parts.items()), False


def _program(rng):
    """A pickle that would run something, or grow without end."""
    program = rng.choice(PROGRAMS)
    if rng.random() < 0.5:
        program = nested(program)
    return ".pth", archive([("x/data.pkl", program), ("x/data/0", b"1234")]), True


def nested(program: bytes) -> bytes:
    """The program as a value in the dict where weights are looked for."""
    return b"\x80\x02}X\x05\x00\x00\x00model" + program[:-1] + b"s."


def _declare(rng):
    """Sizes that the file does not have."""
    huge = rng.choice([2**31, 2**40, 2**62, 2**63, 2**64 - 1, 10**30])
    npy = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }" % huge
    head = {"w": entry([huge], 0, huge * 4)}
    choices = [
        (".safetensors", safetensors(head, b"")),
        (".safetensors", struct.pack("<Q", min(huge, 2**64 - 1)) + b"{}"),
        (".safetensors", safetensors({"w": entry([huge, 0, huge], 0, 4)}, b"1234")),
        (".npz", archive([("w.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(npy)) + npy)])),
        (".npz", archive([("w.npy", b"\x93NUMPY\x02\x00" + b"\xff" * 4 + npy)])),
        (".pth", archive([("x/data.pkl", tensor(huge, rng.randrange(4))), ("x/data/0", b"1234")])),
    ]
    return (*rng.choice(choices), True)


def tensor(count: int, where: int) -> bytes:
    """A pickled tensor of one storage of 4 bytes that claims more, by one of four numbers."""

    def number(value):
        return b"\x8a\x10" + value.to_bytes(16, "little")

    sizes = [number(count if where == n else 1) for n in range(4)]
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    )
    head = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + sizes[0] + b"tQ" + sizes[1]
    # Two elements, so that a stride counts too.
    shape = b"K\x02" if where == 3 else sizes[2]
    return b"}X\x01\x00\x00\x00w" + head + shape + b"\x85" + sizes[3] + b"\x85\x89}tRs."


def _bomb(rng):
    """A small compressed file of much nothing; entries that repeat or overlap."""
    zeros = bytes(2**22)
    names = rng.choice([["x/data.pkl"], ["x/data.pkl", "x/data/0"], ["a.npy"]])
    deflated = archive([(name, zeros) for name in names], compression=zipfile.ZIP_DEFLATED)
    twice = archive([("x/data.pkl", b"}."), ("x/data/0", b"1234"), ("x/data/1", b"1234")])
    twice = twice.replace(b"x/data/1", b"x/data/0")
    choices = [deflated, twice, _overlap(), archive([(f"{n}.npy", b"") for n in range(500)])]
    return (rng.choice([".pth", ".npz", ".bin"]), rng.choice(choices), True)


def _overlap() -> bytes:
    """Two directory entries of different names over the same local header."""
    data = archive([("a.npy", b"x" * 80), ("b.npy", b"x" * 80)])
    second = data.rindex(b"PK\x01\x02")
    return data[: second + 42] + struct.pack("<I", 0) + data[second + 46 :]


def _path(rng):
    """Names that lead out of the archive or of the folder."""
    name = rng.choice(
        ["../../evil.npy", "/etc/evil.npy", "a/../../evil.npy", "C:/evil.npy", "a\\b.npy"]
    )
    ok = [("x/data.pkl", b"}."), ("x/data/0", b"1234")]
    return rng.choice([".npz", ".pth"]), archive([*ok, (name, b"1")]), True


def _json(rng):
    """Headers of safetensors that lie: faults row 20."""
    four = b"\0" * 16
    good = entry([2], 0, 8)
    double = b'{"w":' + json.dumps(good).encode() + b',"w":' + json.dumps(good).encode() + b"}"
    choices = [
        safetensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, four[:12]),
        safetensors({"a": entry([2], 0, 8), "b": entry([2], 12, 20)}, four[:16] + four[:4]),
        safetensors({"a": entry([2], -8, 0)}, four),
        safetensors({"a": entry([2], 8, 0)}, four),
        safetensors({"a": entry([2], 0, 8)}, four),
        safetensors({"a": entry([True], 0, 4)}, four[:4]),
        safetensors({"a": entry([2.0], 0, 8)}, four[:8]),
        safetensors({"a": entry([-2], 0, 8)}, four[:8]),
        safetensors({"a": entry([1] * 10_000, 0, 4)}, four[:4]),
        safetensors({"a": entry([2], 0, 8, "object")}, four[:8]),
        safetensors({"a": {**good, "call": "os.system"}}, four[:8]),
        safetensors({}, four[:8], raw=double),
        safetensors({}, b"", raw=b"[" * 200_000),
        safetensors({}, b"", raw=b'{"a":' * 100_000),
        safetensors({}, b"", raw=b'{"a":' + b"9" * 10_000 + b"}"),
        safetensors({}, b"", raw=b'{"a":NaN}'),
        safetensors({}, b"", raw=b"\xff\xfe{}"),
    ]
    return ".safetensors", rng.choice(choices), True


def _header(rng):
    """One value of a header, of safetensors or NumPy, becomes what does not belong there."""
    if rng.random() < 0.6:
        header = {
            "a": entry([2, 3], 0, 24),
            "b": entry([4], 24, 32, "F16"),
            "c": entry([0], 32, 32),
        }
        inner = rng.choice([header, header["a"], header["b"], header["c"], header["c"]["shape"]])
        key = rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        wrong = [None, True, -1, 0, 1, 2**31, 2**62, 2**64, 1.0, "", "F32", "\ud800", [], [0], {}]
        wrong += [[0, 2**62], [2**62, 0], [0] * 20, [[1]], {"a": 1}, [2, 3], "a\0b"]
        inner[key] = rng.choice(wrong)
        if rng.random() < 0.2:
            header[rng.choice(["a\0", "\ud800", "", "x" * 3000, "../a", "__metadata__"])] = header[
                "a"
            ]
        return ".safetensors", safetensors(header, bytes(range(32))), False
    number = rng.choice(["2", "0", "-1", "2.", "2,", "2L", "1e3", "9" * 30, "0x2", "2**62", "(1,)"])
    shape = rng.choice([f"({number},)", f"({number}, 3)", f"({number})", f"({number} 3)", number])
    descr = rng.choice(["<f4", "<f4", "<f4", ">f4", "|O", "<V2", "|b1", "<U1", "f4", "<f4,<f4", ""])
    order = rng.choice(["False", "False", "True", "None", "0"])
    text = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}"
    text = rng.choice(
        [text, text, text.replace("'", '"'), text + " " * 5000, "{" + text, text[:-4]]
    )
    version, code = rng.choice([(1, "<H"), (2, "<I"), (3, "<I"), (9, "<H")])
    npy = b"\x93NUMPY" + bytes([version, 0]) + struct.pack(code, len(text)) + text.encode()
    data = npy + bytes(rng.choice([0, 8, 24, 24]))
    return ".npz", archive([("w.npy", data), ("v.npy", data)]), False
