"""A directory with the bad records of rows 15, 16, 17, 24 and 25 of docs/faults.md among good ones.

`write` gives its source, and what has to become of which record; `hostile_tars` gives tars of row
18, each in a folder of its own with a good one: of such a folder nothing is read.
"""

import dataclasses
import io
import json
import struct
import zlib

import numpy as np
from PIL import Image

from tests.data.tar_files import END, header, write_shard
from unified_fm.data import records

GOOD = 24  # ordinary records in the .jsonl, before the others


@dataclasses.dataclass
class Written:
    """What was written.

    Attributes:
        source: all of it.
        skipped: {record: why no stream with pictures can use it}.
        dropped: {record: which of its parts the regions stream drops}.
        files: (reason, path) of the shards that are left out.
    """

    source: str
    skipped: dict[int, str]
    dropped: dict[int, str]
    files: list[tuple[str, str]]


def picture(number: int, side: int = 40) -> Image.Image:
    """A picture with a few blobs, another one for each number."""
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def encoded(image, kind="JPEG", **options):
    """The bytes of a picture's file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def bomb(side=50_000):
    """A PNG of a few kilobytes that says that it has 2,500 million pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(200_000)))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def odd_pictures():
    """{name: bytes} of files of every odd kind that has to be decoded."""
    plain, turned = picture(100), Image.Exif()
    turned[0x0112] = 6
    deep = Image.fromarray(np.asarray(plain)[..., 0].astype(np.uint16) * 257)
    frames = {"save_all": True, "append_images": [picture(101)]}
    return {
        "turned.jpg": encoded(plain, exif=turned),
        "cmyk.jpg": encoded(plain.convert("CMYK")),
        "deep.png": encoded(deep, "PNG"),
        "palette.png": encoded(plain.quantize(16), "PNG", transparency=3),
        "moving.gif": encoded(plain, "GIF", **frames),
        "moving.webp": encoded(plain, "WEBP", **frames),
        "progressive.jpg": encoded(plain, progressive=True),
        "named_wrongly.jpg": encoded(plain, "PNG"),
        "modern.webp": encoded(plain, "WEBP"),
        "modern.avif": encoded(plain, "AVIF"),
    }


def bad_pictures():
    """{name: (bytes, or None for no file; why it is skipped)}."""
    whole = encoded(picture(102))
    page = b"<!DOCTYPE html><html><body>404</body></html>"
    return {
        "cut.jpg": (whole[:-200], "truncated or damaged image"),
        "cut.png": (encoded(picture(102), "PNG")[:200], "truncated or damaged image"),
        "empty.jpg": (b"", "empty image"),
        "page.jpg": (page, "not an image"),
        "bomb.png": (bomb(), "oversized image"),
        "nowhere.jpg": (None, "missing image"),
        "https://example.org/1.jpg": (None, "image is a URL"),
        "../outside.jpg": (None, "image path outside the data folder"),
    }


GOOD_BOX = {"box": [4, 4, 20, 20], "text": "a blob"}
BAD_BOXES = {
    "box of zero or negative size": ([5, 5, 0, 9], [5, 5, -9, 9]),
    "box outside its image": ([500, 5, 9, 9], [20, 20, 38, 39]),  # the second is x0, y0, x1, y1
    "box has NaN or infinity": ([5, float("nan"), 9, 9],),
    "box is not four numbers": ([5, 5, 9], "5 5 9 9"),
}
ODD_TEXTS = ("😀😀😀", "nul\0byte", "مرحبا بالعالم", "long " * 200_000)


def write(folder):
    """Writes the directory; gives what there is in it."""
    lines, skipped, dropped = [], {}, {}

    def add(image, text, regions=(GOOD_BOX,)):
        lines.append({"image": image, "text": text, "regions": list(regions)})
        return len(lines) - 1

    for number in range(GOOD):
        (folder / f"{number}.jpg").write_bytes(encoded(picture(number)))
        add(f"{number}.jpg", f"blobs of number {number}")
    for name, data in odd_pictures().items():
        (folder / name).write_bytes(data)
        add(name, f"an odd one, {name}")
    for name, (data, reason) in bad_pictures().items():
        if data is not None:
            (folder / name).write_bytes(data)
        skipped[add(name, f"a bad one, {name}")] = reason
    for text in ODD_TEXTS:
        add("1.jpg", text)
    dropped[add("2.jpg", " ")] = "image with empty text"
    dropped[add("3.jpg", ["  \n"])] = "image with empty text"
    for reason, boxes in BAD_BOXES.items():
        for box in boxes:
            number = add("3.jpg", f"with a {reason}", [GOOD_BOX, {"box": box, "text": "a blob"}])
            dropped[number] = reason
    texts = [json.dumps(line).encode() for line in lines]
    texts.append(texts[0].replace(b"number", b"n\xff\xfember"))  # invalid UTF-8
    texts.append(b'{"image": "1.jpg", "text": ')
    skipped[len(texts) - 1] = "invalid JSON"
    texts.append(b'["no", "object"]')
    skipped[len(texts) - 1] = "invalid JSON"
    (folder / "pairs.jsonl").write_bytes(b"\n".join(texts))
    files, damaged = _shards(folder / "shards")
    skipped[len(texts) + damaged] = "damaged record"
    source = f"jsonl:{folder}/pairs.jsonl+array_record:{folder}/shards/part?missing=allow"
    return Written(source=source, skipped=skipped, dropped=dropped, files=files)


def hostile_tars(folder):
    """{path: what is said of it}; in the folder of each there is a good shard, too."""
    member = header("1.jpg", 3) + b"one".ljust(512, b"\0")
    bad = {
        "path": (header("../../outside.jpg", 5) + bytes(512), "leads out of the folder"),
        "link": (header("x.jpg", kind=b"2", link="/etc/passwd"), "a symbolic link"),
        "device": (header("x.jpg", kind=b"3"), "a character device"),
    }
    found = {}
    for name, (raw, said) in bad.items():
        (folder / name).mkdir(parents=True)
        write_shard(folder / name / "00000.tar", 0, 3)
        path = folder / name / "00001.tar"
        path.write_bytes(member + raw + END)
        found[path] = said
    return found


def _shards(folder):
    """Four shards: whole with a flipped byte, cut off, missing, whole. Gives the files that are
    left out, and the place of the damaged record."""
    examples = [
        {
            "image": encoded(picture(200 + number)),
            "text": f"blobs in shard record {number}",
            "regions": [GOOD_BOX],
        }
        for number in range(16)
    ]
    paths = records.write_shards(folder / "part", examples, per_shard=4)
    whole = bytearray(paths[0].read_bytes())
    whole[whole.index(examples[2]["image"][-20:]) + 5] ^= 1
    paths[0].write_bytes(whole)
    paths[1].write_bytes(paths[1].read_bytes()[:700])
    paths[2].unlink()
    left_out = [("missing shard", str(paths[2])), ("unreadable shard", str(paths[1]))]
    return left_out, 2
