"""Tar shards for tests, in img2dataset's layout, and headers that no honest program writes."""

import io
import json
import pathlib
import tarfile

from PIL import Image


def jpeg(value: int) -> bytes:
    """A small picture."""
    out = io.BytesIO()
    Image.new("RGB", (30, 20), (value, 0, 0)).save(out, "JPEG")
    return out.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a member."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def write_shard(path: pathlib.Path, number: int, samples: int, **options) -> pathlib.Path:
    """Samples as img2dataset writes them: .jpg, .json and .txt under one key."""
    with tarfile.open(path, "w", **options) as tar:
        for k in range(samples):
            key = f"{number:05d}{k:04d}"
            said = {"caption": f"caption {number} {k}", "url": "https://example.org", "key": key}
            add(tar, f"{key}.jpg", jpeg(10 * number + k))
            add(tar, f"{key}.json", json.dumps(said | {"status": "success"}).encode())
            add(tar, f"{key}.txt", said["caption"].encode())
    return path


def header(
    name: str, size: int = 0, kind: bytes = b"0", link: str = "", field: bytes = b""
) -> bytes:
    """The header of a member; `field` is the size as it stands there, where it is no number."""
    info = tarfile.TarInfo(name)
    info.size, info.linkname, info.type = size, link, kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    if field:
        block[124:136] = field.ljust(12, b"\0")
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


def pax(**fields: str) -> bytes:
    """A PAX header with these fields, for the member behind it."""
    info = tarfile.TarInfo("x")
    info.pax_headers = fields
    made = info.tobuf(tarfile.PAX_FORMAT)
    return made[:-512]


END = bytes(1024)
