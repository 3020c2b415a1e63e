"""webdataset: samples of tar shards, and the index that is kept of them."""

import logging
import os
import pickle
import tarfile
import time

import numpy as np
import pytest

from tests.data import tar_files
from unified_fm.data import records, shards, source
from unified_fm.data.skips import Skip
from unified_fm.data.sources import _tar_index, _tar_shards
from unified_fm.data.sources._kept import Stamped


@pytest.fixture
def cc(tmp_path):
    """Three shards of four samples."""
    for number in range(3):
        tar_files.write_shard(tmp_path / f"{number:05d}.tar", number, 4)
    return tmp_path


def opened(spec):
    _tar_shards._SAMPLES.forget()  # as a new process would begin
    return source.open_source(spec)


def test_samples_as_img2dataset_writes_them(cc):
    read = opened(f"webdataset:{cc}/{{00000..00002}}.tar")
    assert len(read) == 12
    assert read[6] == {
        "id": "00001/000010002",
        "image": tar_files.jpeg(12),
        "text": "caption 1 2",
        "url": "https://example.org",
        "key": "000010002",
        "status": "success",
    }
    assert read.place(6) == f"{cc}/00001.tar, sample 000010002"
    assert [read[k]["id"] for k in range(12)] == [
        f"{n:05d}/{n:05d}{k:04d}" for n in range(3) for k in range(4)
    ]
    assert pickle.loads(pickle.dumps(read))[6] == read[6]


def test_members_of_other_kinds_and_in_any_order(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar_files.add(tar, "./dogs/1.txt", "eine Katze schläft\n".encode())
        tar_files.add(tar, "./dogs/2.cls", b"7\n")
        tar_files.add(tar, "./dogs/.DS_Store", b"x")
        tar_files.add(tar, "README", b"x")
        tar_files.add(tar, "./dogs/1.seg.PNG", b"mask")
        tar_files.add(tar, "./dogs/2.webp", b"two")
        tar_files.add(tar, "./dogs/1.jpg", b"one")
        tar_files.add(tar, "./dogs/3.json", b'{"id": 5, "image": "/etc/passwd.png", "elems": []}')
        tar_files.add(tar, "./dogs/3.png", b"three")
        tar_files.add(tar, "./dogs/4.json", b"[1]")
    read = opened(f"webdataset:{tmp_path}/a.tar")
    text = "eine Katze schläft"
    assert read[0] == {"id": "a/dogs/1", "text": text, "image": b"one", "seg.png": b"mask"}
    assert read[1] == {"id": "a/dogs/2", "label": 7, "image": b"two"}
    assert read[2] == {"id": 5, "image": b"three", "regions": []}
    with pytest.raises(Skip, match="invalid JSON"):
        read[3]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_in_every_format(tmp_path, form):
    folder = "/".join(["long" * 10] * 3) if form == tarfile.USTAR_FORMAT else "ä" * 200
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        tar_files.add(tar, f"{folder}/1.jpg", b"one")
        tar_files.add(tar, "2.jpg", b"two")
    read = opened(f"webdataset:{tmp_path}/a.tar")
    assert [read[k]["id"] for k in range(2)] == [f"a/{folder}/1", "a/2"]
    assert [read[k]["image"] for k in range(2)] == [b"one", b"two"]


def test_shards_are_looked_through_once(cc, caplog):
    def lines(spec):
        caplog.clear()
        read = opened(spec)
        return len(read), [r.args[1] for r in caplog.records if "looking" in r.message]

    caplog.set_level(logging.INFO)
    assert lines(f"webdataset:{cc}/0000[01].tar") == (8, [2])
    assert lines(f"webdataset:{cc}") == (12, [1])
    assert lines(f"webdataset:{cc}") == (12, [])
    os.utime(cc / "00000.tar", (1, 1))  # a copy of the same content: its ends are compared
    assert lines(f"webdataset:{cc}") == (12, [1])
    assert lines(f"webdataset:{cc}") == (12, [])
    tar_files.write_shard(cc / "00001.tar", 7, 3)
    assert lines(f"webdataset:{cc}") == (11, [1])
    assert opened(f"webdataset:{cc}")[4]["text"] == "caption 7 0"
    assert sorted(path.name for path in (cc / ".webdataset_index").iterdir()) == [
        *(f"0000{k}.tar.index" for k in range(3)),
        "summary",
    ]


def test_an_index_elsewhere_and_where_nothing_can_be_written(cc, monkeypatch, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    assert len(opened(f"webdataset:{cc}?index={other}/made")) == 12
    assert not (cc / ".webdataset_index").exists()
    assert len(list((other / "made").rglob("*.index"))) == 3
    monkeypatch.setenv("XDG_CACHE_HOME", str(other))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert len(opened(f"webdataset:{cc}")) == 12
    (place,) = (other / "unified_fm" / "webdataset").iterdir()
    assert len(list(place.iterdir())) == 4
    monkeypatch.setenv("XDG_CACHE_HOME", str(cc / "00000.tar"))  # no folder
    with pytest.raises(OSError, match=r"can be kept neither in .* say where: .*index=DIR"):
        opened(f"webdataset:{cc}")


def test_a_full_disk_only_costs_the_index(cc, monkeypatch, caplog):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_tar_index.files, "write_whole", full)
    assert opened(f"webdataset:{cc}")[11]["text"] == "caption 2 3"
    assert caplog.text.count("are not kept, and are made again at each start: [Errno 28]") == 1


def test_a_damaged_index_is_made_again(cc):
    opened(f"webdataset:{cc}")
    folder = cc / ".webdataset_index"
    (folder / "summary").write_bytes(b"UFMR1\nrubbish")
    for path in folder.glob("*.index"):
        path.write_bytes(path.read_bytes()[:-3])
    read = opened(f"webdataset:{cc}")
    assert read[5]["text"] == "caption 1 1"
    (folder / "00001.tar.index").unlink()  # while the source is open
    _tar_shards._SAMPLES.forget()
    assert read[5]["text"] == "caption 1 1"


def test_an_index_that_lies_reads_nothing_else(cc):
    """Places outside the shard are refused, others must have the header of such a member."""
    opened(f"webdataset:{cc}")
    path = cc / ".webdataset_index" / "00000.tar.index"
    index = records.decode(path.read_bytes())
    offset = index["offset"].copy()
    offset[0] += 512
    path.write_bytes(records.encode(index | {"offset": offset}))
    read = opened(f"webdataset:{cc}")
    with pytest.raises(Skip, match="damaged record: no member of"):
        read[0]
    assert read[1]["text"] == "caption 0 1"
    offset[0] += 1 << 40
    path.write_bytes(records.encode(index | {"offset": offset}))
    assert opened(f"webdataset:{cc}")[0]["text"] == "caption 0 0"  # made again
    (cc / ".webdataset_index" / "summary").unlink()
    summary = [("00000.tar", shard(cc / "00000.tar", 9), "")]
    _tar_shards.write_summary(str(cc / ".webdataset_index"), summary)
    with pytest.raises(shards.ChangedShard, match=r"has 4 samples; 9 stand in .* Remove that"):
        opened(f"webdataset:{cc}/00000.tar")[0]


def shard(path, samples):
    return _tar_shards.Shard(Stamped.of(path), "", samples)


def test_row_17_a_shard_that_is_cut_off_gives_its_samples_up_to_there(cc):
    path = cc / "00001.tar"
    with tarfile.open(path) as tar:
        third = tar.getmember("000010002.txt")
    path.write_bytes(path.read_bytes()[: third.offset_data + 3])
    read = opened(f"webdataset:{cc}")
    assert len(read) == 10
    assert read[5]["text"] == "caption 1 1"
    assert read[6]["text"] == "caption 2 0"
    ((reason, where),) = read.problems
    assert reason == "shard cut off"
    assert where.startswith(f"{path}: it is cut off: '000010002.txt' at byte")
    assert read.lost == 2
    assert opened(f"webdataset:{cc}").problems == read.problems  # the index knows it, too


def test_row_17_shards_that_are_none_or_missing(cc):
    (cc / "00001.tar").write_bytes(b"<html>404</html>")
    (cc / "00002.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 files .*00002\.tar.*\?missing=allow"):
        opened(f"webdataset:{cc}/{{00000..00002}}.tar")
    read = opened(f"webdataset:{cc}/{{00000..00002}}.tar?missing=allow")
    assert [reason for reason, _ in read.problems] == ["missing shard", "unreadable shard"]
    assert "it is no tar archive: b'<html>404</html>'" in read.problems[1][1]
    assert (len(read), read.lost) == (4, 4)
    with pytest.raises(ValueError, match=r"none of 1 shards has samples.*no tar archive"):
        opened(f"webdataset:{cc}/00001.tar")


def test_several_archives_in_one_file_are_named(cc):
    both = (cc / "00000.tar").read_bytes() + (cc / "00001.tar").read_bytes()
    (cc / "00000.tar").write_bytes(both)
    (cc / "00001.tar").unlink()
    read = opened(f"webdataset:{cc}")
    assert len(read) == 8
    assert "several archives, one behind the other" in read.problems[0][1]


def test_a_shard_that_changes_under_a_run_ends_it(cc):
    read = opened(f"webdataset:{cc}")
    assert read[0]["text"] == "caption 0 0"
    os.replace(cc / "00001.tar", cc / "00002.tar")
    with pytest.raises(shards.ChangedShard, match=r"00002\.tar was replaced"):
        read[11]


def test_many_shards_open_by_their_summary(tmp_path):
    """2,000 shards with a summary: none of them is opened. docs/data.md has 100,000."""
    rows, folder = [], tmp_path / ".webdataset_index"
    folder.mkdir()
    for number in range(2000):
        path = tmp_path / f"{number:05d}.tar"
        path.touch()
        rows.append((path.name, shard(path, 1000), "0" * 32))
    _tar_shards.write_summary(str(folder), rows)
    began = time.perf_counter()
    read = opened(f"webdataset:{tmp_path}/{{00000..01999}}.tar")
    assert len(read) == 2_000_000
    assert np.isclose(read._sections.locate(1_999_999), (1999, 999)).all()
    assert time.perf_counter() - began < 5  # 0.05 s where nothing else runs
