"""Row 18: tar archives that would harm whoever unpacks them. We never do, and use none of them."""

import gzip
import re

import pytest

from tests.data import tar_files
from tests.data.tar_files import END, header, pax
from unified_fm.data import source
from unified_fm.data.official import WrongFile
from unified_fm.data.sources import _tar

GOOD = header("1.jpg", 3) + b"one".ljust(512, b"\0")
BODY = b"x" * 512


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (header("/etc/cron.d/x.jpg", 5) + BODY, "'/etc/cron.d/x.jpg' leads out of the folder"),
        (header("a/../../x.jpg", 5) + BODY, r"'a/\.\./\.\./x\.jpg' leads out of the folder"),
        (header("../x/", kind=b"5"), "leads out of the folder"),
        (pax(path="../../x.jpg") + header("1.jpg", 5) + BODY, r"'\.\./\.\./x\.jpg' leads out"),
        (header("x", 12, b"L") + b"/etc/passwd\0".ljust(512, b"\0") + header("1.jpg"), "leads out"),
        (header("x.jpg", kind=b"2", link="/etc/passwd"), "'x.jpg' is a symbolic link"),
        (header("x.jpg", kind=b"1", link="1.jpg"), "'x.jpg' is a hard link"),
        (header("x.jpg", kind=b"3"), "a character device"),
        (header("x.jpg", kind=b"4"), "a block device"),
        (header("x.jpg", kind=b"6"), "a named pipe"),
        (header("x.jpg", kind=b"S"), "a sparse file"),
        (header("x.jpg", kind=b"Z"), "of the unknown kind b'Z'"),
        (pax(**{"GNU.sparse.major": "1"}) + header("x.jpg"), "a sparse file or a link"),
        (pax(linkpath="/etc/passwd") + header("x.jpg"), "a sparse file or a link"),
        (pax(size="9999999999") + header("x.jpg", 5) + BODY, "two sizes, 5 and 9999999999"),
        (pax(size="-1") + header("x.jpg", 5) + BODY, "a size that is none: '-1'"),
        (header("x.jpg", field=b"\xff" * 12), "a size that is none"),
        (header("x.jpg", field=b"12x4"), "a size that is none"),
        (header("x", 5, b"x") + b"99 a=b\n".ljust(512, b"\0"), "a PAX header that is none"),
        (header("x", 1 << 21, b"x") + bytes(1 << 21), "a header of 2,097,152 bytes"),
        (header("x", 1 << 21, b"L") + bytes(1 << 21), "a header of 2,097,152 bytes; at most 4,096"),
        (
            header("x", 16, b"g") + b"99 path=a/b.jpg\n".ljust(512, b"\0"),
            "PAX header that is none",
        ),
        (header("x", 16, b"g") + b"16 path=a/b.jpg\n".ljust(512, b"\0"), "one path for all"),
        (header("a\nb.jpg"), "is no name"),
        (header("x/", 5, kind=b"5") + BODY, "the folder 'x/' has 5 bytes"),
    ],
)
def test_row_18_hostile_members_are_refused_and_nothing_is_written(tmp_path, raw, found):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.tar"
    path.write_bytes(GOOD + raw + END)
    with pytest.raises(_tar.HostileTar, match=found) as error:
        source.open_source(f"webdataset:{path}")
    assert re.match(rf"{path}, byte [12],\d\d\d: .* Nothing of this", str(error.value))
    left = sorted(str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*"))
    assert left == ["in", "in/.webdataset_index", "in/a.tar"]


@pytest.mark.parametrize(
    ("size", "found"),
    [
        ({"size": 8**11 - 1}, "has 8,589,934,591 bytes, and 1,024 are left"),
        ({"field": b"\x80" + b"\x7f" * 11}, "are left in the file"),
    ],
)
def test_row_18_sizes_that_lie_take_no_memory(tmp_path, size, found):
    (tmp_path / "a.tar").write_bytes(GOOD + header("2.jpg", **size) + END)
    read = source.open_source(f"webdataset:{tmp_path}/a.tar")
    assert [read[k]["image"] for k in range(len(read))] == [b"one"]
    assert found in read.problems[0][1]


def test_row_18_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(_tar, "MOST_MEMBERS", 20)
    members = b"".join(header(f"{k}.txt") for k in range(21))
    (tmp_path / "a.tar").write_bytes(members + END)
    with pytest.raises(_tar.HostileTar, match="more than 20 members; split it"):
        source.open_source(f"webdataset:{tmp_path}/a.tar")


def test_row_18_one_name_twice(tmp_path):
    (tmp_path / "a.tar").write_bytes(GOOD + GOOD + END)
    with pytest.raises(WrongFile, match=r"a\.tar has two members '1\.jpg'"):
        source.open_source(f"webdataset:{tmp_path}/a.tar")


def test_a_compressed_shard_is_refused(tmp_path):
    shard = tar_files.write_shard(tmp_path / "b.tar", 0, 2)
    (tmp_path / "a.tar").write_bytes(gzip.compress(shard.read_bytes()))
    with pytest.raises(
        WrongFile, match=r"a\.tar is compressed \(gzip\).*unpack it once \(gunzip\)"
    ):
        source.open_source(f"webdataset:{tmp_path}/a.tar")
