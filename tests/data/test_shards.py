"""Many shards: descriptors, speed, what is lost and what is only out of reach."""

import os
import subprocess
import sys
import time

import pytest

from unified_fm.data import records, shards, source
from unified_fm.data.skips import Skip, TooManySkips
from unified_fm.data.streams import Streams, stream


def link_shards(folder, count, each=1):
    """`count` shards of `each` records, which are links to a few files; gives the stem."""
    base = [
        records.write_shards(folder / f"base{k}", [{"text": "x", "number": k}] * each)[0]
        for k in range(4)
    ]
    (folder / "many").mkdir()
    for k in range(count):  # a file system allows so many links to one file
        os.link(base[k % 4], folder / "many" / f"t-{k:05d}-of-{count:05d}.array_record")
    return folder / "many" / "t"


def processor_seconds(function):
    began = time.process_time()
    result = function()
    return time.process_time() - began, result


IN_256_FILES = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from unified_fm.data import source
read = source.open_source(f"array_record:{sys.argv[1]}")
assert len(read) == 2000 and not read.problems, (len(read), read.problems)
assert all(read[k]["number"] == k % 4 for k in range(0, 2000, 3))
print(len(os.listdir("/proc/self/fd")))
"""


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
    )


def test_D8_more_shards_than_descriptors(tmp_path):
    done = run(IN_256_FILES, link_shards(tmp_path, 2000))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 128  # most of the limit is left to others


WITHOUT_ANY = """
import errno, os, resource, sys
from unified_fm.data import records, shards, source
read = source.open_source(f"array_record:{sys.argv[1]}")
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []

def fill():
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass

assert read[0]["number"] == 0
fill()
assert read[1]["number"] == 1  # the reader of shard 0 was let go for it
shards.READERS._keep(0)
fill()
try:
    read[2]
except shards.OutOfDescriptors as error:
    assert "may open 64 files (ulimit -n)" in str(error), error
else:
    raise AssertionError("no error")
for spec in (sys.argv[1], sys.argv[1] + "-*"):
    try:
        source.open_source(f"array_record:{spec}")
    except OSError as error:
        assert error.errno == errno.EMFILE, error
    else:
        raise AssertionError("no error")
"""


def test_D8_no_descriptor_left_is_an_error_of_its_own(tmp_path):
    done = run(WITHOUT_ANY, link_shards(tmp_path, 8))
    assert done.returncode == 0, done.stderr


def test_D8_shards_are_found_in_linear_time(tmp_path):
    (tmp_path / "t").mkdir()
    for k in range(5000):
        (tmp_path / "t" / f"t-{k:05d}-of-05000.array_record").touch()
    seconds, (found, missing) = processor_seconds(lambda: records.find_shards(f"{tmp_path}/t/t"))
    assert len(found) == 5000 and not missing
    assert seconds < 3  # a quadratic search took 16
    for k in (7, 4999):
        os.unlink(found[k])
    assert records.find_shards(f"{tmp_path}/t/t")[1] == [found[7], found[4999]]


@pytest.mark.nightly
def test_D8_a_hundred_million_records_in_a_hundred_thousand_shards_open_in_seconds(tmp_path):
    stem = link_shards(tmp_path, 100_000, each=1000)
    seconds, read = processor_seconds(lambda: source.open_source(f"array_record:{stem}"))
    assert len(read) == 10**8
    assert [read[k]["number"] for k in (0, 50_001_999, 10**8 - 1)] == [0, 1, 3]
    assert seconds < 60  # of the processor; 16 on a busy machine


def test_D8_six_digits_sort_by_number(tmp_path):
    names = [f"t-{k:05d}-of-100001.array_record" for k in (0, 99_999, 100_000, 10_000)]
    names += ["t-x-00000-of-00001.array_record", "t-00000-of-1.array_record"]  # of other stems
    for name in names:
        (tmp_path / name).touch()
    found, missing = records.find_shards(f"{tmp_path}/t")
    assert [os.path.basename(path) for path in found] == [names[k] for k in (0, 3, 1, 2)]
    assert len(missing) == 100_001 - 4
    assert missing[-1].endswith("-99998-of-100001.array_record")


def test_D8_a_lost_shard_stops_a_run_unless_allowed(tmp_path, caplog):
    paths = records.write_shards(
        tmp_path / "t", ({"text": f"text {k}"} for k in range(60)), per_shard=2
    )
    paths[4].unlink()

    def opened(spec, **options):
        return Streams(
            {"text": stream("text", spec, 8, max_len=8, **options)}, seed=0, tokenizer="bytes"
        )

    with pytest.raises(FileNotFoundError, match="1 of 30 shards are not there"):
        opened(f"array_record:{tmp_path}/t")
    streams = opened(f"array_record:{tmp_path}/t?missing=allow")
    assert streams.loaders["text"].records == 58
    assert f"missing shard: {paths[4]}" in caplog.text
    with pytest.raises(TooManySkips, match=r"missing shard.*max_skip=0 allows no loss"):
        opened(f"array_record:{tmp_path}/t?missing=allow", max_skip=0.0)


def test_row_17_unreadable_shards_count_towards_max_skip(tmp_path):
    paths = records.write_shards(
        tmp_path / "t", ({"text": f"text {k}"} for k in range(3000)), per_shard=300
    )
    paths[3].write_bytes(b"<html>" * 1000)
    config = stream("text", f"array_record:{tmp_path}/t", 8, max_len=8)
    with pytest.raises(TooManySkips, match=r"about 300 of 3,000 records .* max_skip=0\.01") as e:
        Streams({"text": config}, seed=0, tokenizer="bytes")
    assert "1  (file) unreadable shard" in str(e.value)
    streams = Streams({"text": config | {"max_skip": 0.1}}, seed=0, tokenizer="bytes")
    assert streams.loaders["text"].records == 2700


def test_D8_a_shard_that_is_replaced_under_a_run_is_noticed(tmp_path):
    paths = records.write_shards(tmp_path / "t", ({"id": k} for k in range(8)), per_shard=4)
    read = source.open_source(f"array_record:{tmp_path}/t")
    assert read[0] == {"id": 0}
    records.write_shards(tmp_path / "t", ({"id": 10 + k} for k in range(8)), per_shard=4)
    assert read[1] == {"id": 1}  # still open: the file that the run began with
    os.utime(paths[1], ns=(1, 1))
    with pytest.raises(shards.ChangedShard, match="was replaced: 4 records"):
        read[5]
    os.unlink(paths[1])
    with pytest.raises(Skip, match=f"unreadable shard: {paths[1]}: .*No such file"):
        read[5]
    assert source.open_source(f"array_record:{paths[0]}")[0] == {"id": 10}


def test_a_shard_without_records_is_no_loss(tmp_path):
    paths = records.write_shards(tmp_path / "t", ({"id": k} for k in range(4)), per_shard=2)
    empty = shards.array_record_module.ArrayRecordWriter(str(paths[0]), "group_size:1")
    empty.close()
    read = source.open_source(f"array_record:{tmp_path}/t")
    assert [read[k]["id"] for k in range(len(read))] == [2, 3] and not read.problems
