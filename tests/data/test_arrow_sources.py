"""parquet: and hf:, on small files that PyArrow writes here; test_foreign_files has real ones."""

import json
import multiprocessing
import pickle
import struct
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unified_fm.data import source
from unified_fm.data.official import WrongFile
from unified_fm.data.skips import Skip
from unified_fm.data.sources import parquet

TABLE = pa.table(
    {
        "image": [{"bytes": b"one", "path": "1.jpg"}, {"bytes": None, "path": "2.jpg"}, None],
        "caption": ["a", None, "c"],
        "label": [1, 0, 1],
        "image_id": ["x", "y", "z"],
    }
)


def examples(opened):
    return [opened[k] for k in range(len(opened))]


def expected(folder):
    return [
        {"id": "x", "image": b"one", "text": "a", "label": 1},
        {"id": "y", "image": str(folder / "2.jpg"), "label": 0},
        {"id": "z", "text": "c", "label": 1},
    ]


def test_rows_of_parquet_files(tmp_path):
    pq.write_table(TABLE, tmp_path / "a.parquet", row_group_size=2)
    opened = source.open_source(f"parquet:{tmp_path}/a.parquet")
    assert examples(opened) == expected(tmp_path)
    assert opened.place(2) == f"{tmp_path}/a.parquet, row 0 of row group 1"
    assert examples(pickle.loads(pickle.dumps(opened))) == expected(tmp_path)


def first_text(opened, answers):
    answers.put(opened[0]["text"])


@pytest.mark.skipif(sys.platform != "linux", reason="fork")
def test_a_forked_process_reads_on(tmp_path):
    pq.write_table(TABLE, tmp_path / "a.parquet")
    opened = source.open_source(f"parquet:{tmp_path}/a.parquet")
    assert opened[0]["text"] == "a"
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=first_text, args=(opened, answers))
    process.start()
    assert answers.get(timeout=30) == "a"
    process.join()


def test_row_groups_are_let_go(tmp_path, monkeypatch):
    table = pa.table({"text": [str(k) * 1000 for k in range(50)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=5)
    monkeypatch.setattr(parquet, "_KEPT", 12_000)
    parquet._GROUPS.forget()
    opened = source.open_source(f"parquet:{tmp_path}/a.parquet")
    for index in (0, 49, 7, 21, 0, 33):
        assert opened[index]["text"] == str(index) * 1000
        assert parquet._GROUPS._sum <= 12_000
    assert 1 <= len(parquet._GROUPS._things) <= 2


def test_a_row_group_that_memory_could_not_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_MOST", 50)
    pq.write_table(TABLE, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet has a row group of .*row_group_size=100"):
        source.open_source(f"parquet:{tmp_path}/a.parquet")


def test_row_17_parquet_files_that_are_cut_off_or_missing(tmp_path):
    for number in range(3):
        pq.write_table(TABLE, tmp_path / f"t-0000{number}-of-00004.parquet")
    cut = tmp_path / "t-00001-of-00004.parquet"
    cut.write_bytes(cut.read_bytes()[:300])
    with pytest.raises(FileNotFoundError, match=r"1 of 4 files .*t-00003-of-00004\.parquet"):
        source.open_source(f"parquet:{tmp_path}")
    opened = source.open_source(f"parquet:{tmp_path}/t-*.parquet?missing=allow")
    assert len(opened) == 6
    assert [reason for reason, _ in opened.problems] == ["missing shard", "unreadable shard"]
    assert str(cut) in opened.problems[1][1]
    assert opened.lost == 3
    with pytest.raises(ValueError, match="none of 1 files can be read as Parquet"):
        source.open_source(f"parquet:{cut}")


def test_a_damaged_row_group_costs_its_rows(tmp_path):
    pq.write_table(TABLE, tmp_path / "a.parquet", row_group_size=2, compression="gzip")
    raw = bytearray((tmp_path / "a.parquet").read_bytes())
    raw[4:200] = bytes(196)
    (tmp_path / "a.parquet").write_bytes(raw)
    opened = source.open_source(f"parquet:{tmp_path}/a.parquet")
    with pytest.raises(Skip, match="damaged record"):
        opened[0]
    assert opened[2]["text"] == "c"


def save(folder, table, features=None, name="data-00000-of-00001.arrow"):
    """What `save_to_disk` writes, as far as it is read."""
    folder.mkdir(parents=True)
    with pa.OSFile(str(folder / name), "wb") as out, pa.ipc.new_stream(out, table.schema) as w:
        w.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


def test_rows_of_a_saved_dataset(tmp_path):
    names = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    save(tmp_path / "a", TABLE, {"image": {"_type": "Image"}, "label": names})
    opened = source.open_source(f"hf:{tmp_path}/a")
    assert examples(opened) == expected(tmp_path / "a")
    assert opened.class_names == ["cat", "dog"]
    assert opened.place(2).endswith("data-00000-of-00001.arrow, row 0 of batch 1")
    assert examples(pickle.loads(pickle.dumps(opened))) == expected(tmp_path / "a")


def test_features_say_which_column_is_the_image_and_what_the_boxes_hold(tmp_path):
    table = pa.table(
        {
            "picture": [{"bytes": b"1", "path": None}],
            "objects": [{"bbox": [[1.0, 2.0, 3.0, 4.0]], "category": [1], "area": [12]}],
            "fine": [-1],
        }
    )
    boxes = {"bbox": {"_type": "List"}, "category": {"_type": "List", "feature": {}}}
    boxes["category"]["feature"] = {"names": ["hat", "shoe"], "_type": "ClassLabel"}
    features = {"picture": {"_type": "Image"}, "objects": boxes}
    features["fine"] = {"names": ["a"], "_type": "ClassLabel"}
    save(tmp_path / "a", table, features)
    (example,) = examples(source.open_source(f"hf:{tmp_path}/a"))
    assert example.pop("regions") == [{"box": [1.0, 2.0, 3.0, 4.0], "text": "shoe", "area": 12}]
    assert example == {"id": 0, "image": b"1"}  # a class of -1 is one that is not known


def test_splits_of_a_saved_dataset(tmp_path):
    for split in ("train", "test"):
        save(tmp_path / "a" / split, TABLE)
    (tmp_path / "a" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert len(source.open_source(f"hf:{tmp_path}/a:test")) == 3
    with pytest.raises(WrongFile, match=r"has several splits; say which: hf:.*/a:train, hf:"):
        source.open_source(f"hf:{tmp_path}/a")
    with pytest.raises(WrongFile, match="no split 'tset'; did you mean 'test'"):
        source.open_source(f"hf:{tmp_path}/a:tset")


def test_saved_datasets_that_are_none(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(WrongFile, match=r"has no state\.json.*save_to_disk"):
        source.open_source(f"hf:{tmp_path}/a")
    with pytest.raises(FileNotFoundError, match="did you mean 'a'"):
        source.open_source(f"hf:{tmp_path}/aa")
    for name in ("../x.arrow", "/etc/passwd", ""):
        (tmp_path / "a" / "state.json").write_text(
            json.dumps({"_data_files": [{"filename": name}]})
        )
        with pytest.raises(WrongFile, match="is not the name of a file in"):
            source.open_source(f"hf:{tmp_path}/a")


def test_row_17_an_arrow_file_that_is_cut_off(tmp_path):
    save(tmp_path / "a", TABLE)
    whole = (tmp_path / "a" / "data-00000-of-00001.arrow").read_bytes()
    (tmp_path / "a" / "cut.arrow").write_bytes(whole[: len(whole) // 2])
    files = [{"filename": "data-00000-of-00001.arrow"}, {"filename": "cut.arrow"}]
    (tmp_path / "a" / "state.json").write_text(json.dumps({"_data_files": files}))
    opened = source.open_source(f"hf:{tmp_path}/a")
    assert (len(opened), opened.lost) == (3, 3)
    ((reason, where),) = opened.problems
    assert reason == "unreadable shard" and "cut.arrow is no whole Arrow stream" in where


@pytest.mark.parametrize("offset", [1 << 30, -5])
def test_an_arrow_file_that_points_outside_itself_costs_the_record(tmp_path, offset):
    save(tmp_path / "a", pa.table({"text": ["abc", "defg", "hi"]}))
    path = tmp_path / "a" / "data-00000-of-00001.arrow"
    raw = bytearray(path.read_bytes())
    place = raw.find(struct.pack("<iii", 0, 3, 7))  # where the texts of the first batch end
    raw[place + 4 : place + 8] = struct.pack("<i", offset)
    path.write_bytes(raw)
    opened = source.open_source(f"hf:{tmp_path}/a")
    with pytest.raises(Skip, match="damaged record"):
        opened[0]
    assert opened[2]["text"] == "hi"


def test_without_pyarrow_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'unified_fm\[parquet\]'"):
        source.open_source(f"parquet:{tmp_path}")
