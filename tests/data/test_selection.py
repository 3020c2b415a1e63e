"""Slices and splits by hash, in brackets behind a source."""

import json

import pytest

from tests.data import test_sources
from unified_fm.data import records, selection
from unified_fm.data.source import open_source


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


def ids(spec):
    source = open_source(spec)
    return [source[k]["id"] for k in range(len(source))]


@pytest.fixture
def hundred(tmp_path):
    rows = [{"id": f"r{k}", "text": f"text {k}", "image": f"{k // 4}.jpg"} for k in range(100)]
    return write(tmp_path / "x.jsonl", rows)


@pytest.mark.parametrize(
    ("brackets", "first", "last"),
    [
        ("[:90%]", 0, 89),
        ("[90%:]", 90, 99),
        ("[10:20]", 10, 19),
        ("[-5:]", 95, 99),
        ("[:-5]", 0, 94),
        ("[-10%:]", 90, 99),
        ("[:12.5%]", 0, 11),
        ("[ 5 : 10% ]", 5, 9),
        ("[50:][:10]", 50, 59),
    ],
)
def test_a_slice_has_these_records_and_their_ids(hundred, brackets, first, last):
    assert ids(hundred + brackets) == [f"r{k}" for k in range(first, last + 1)]
    source = open_source(hundred + brackets)
    assert source.place(0).endswith(f"line {first + 1}")
    assert source.origin == hundred


@pytest.mark.parametrize("share", ["1%", "33.3%", "50%", "66.67%", "99.9%"])
def test_both_sides_of_an_edge_are_all_records(share):
    sizes = [
        len(open_source(f"synthetic:text:1013[{edge}]")) for edge in (f":{share}", f"{share}:")
    ]
    assert sum(sizes) == 1013


def test_a_split_by_hash_is_disjoint_whole_and_stays_when_records_come(tmp_path, hundred):
    train, val = ids(f"{hundred}[:80% by hash(id)]"), ids(f"{hundred}[80%: by hash(id)]")
    assert sorted(train + val) == sorted(f"r{k}" for k in range(100))
    assert 10 <= len(val) <= 30
    more = [{"id": f"new{k}", "text": "x"} for k in range(50)]
    more += [{"id": f"r{k}", "text": "moved"} for k in reversed(range(100))]
    grown = write(tmp_path / "grown.jsonl", more)
    assert [k for k in ids(f"{grown}[80%: by hash(id)]") if k[0] == "r"] == val[::-1]
    assert set(train) <= set(ids(f"{grown}[:80% by hash(id)]"))


def test_the_shares_of_a_split_are_right_on_average(tmp_path):
    many = write(tmp_path / "many.jsonl", ({"id": k} for k in range(4000)))
    split = open_source(f"{many}[30%:55% by hash(id)]")
    assert abs(len(split) - 1000) < 3 * (4000 * 0.25 * 0.75) ** 0.5


def test_records_of_one_image_are_kept_together(hundred):
    parts = [open_source(f"{hundred}[{part} by hash(image)]") for part in (":70%", "70%:")]
    images = [{source[k]["image"] for k in range(len(source))} for source in parts]
    assert len(images[0]) + len(images[1]) == 25 and images[0].isdisjoint(images[1])


def test_what_few_chooses_and_a_split_have_nothing_to_do_with_each_other(tmp_path):
    some = write(tmp_path / "some.jsonl", ({"id": k} for k in range(1000)))
    chosen, split = set(ids(f"few:50%:{some}")), set(ids(f"{some}[:50% by hash(id)]"))
    assert len(chosen) == 500 and 180 < len(chosen & split) < 320


def test_a_record_without_id_has_its_number_in_the_source(tmp_path):
    records.write_shards(tmp_path / "t", ({"text": f"{k}"} for k in range(10)))
    source = open_source(f"array_record:{tmp_path}/t[4:]")
    assert (source[0]["id"], source[0]["text"]) == (4, "4")
    twice = open_source([f"array_record:{tmp_path}/t", f"array_record:{tmp_path}/t[4:]"])
    assert twice[4]["id"] == twice[10]["id"] == "0/4"
    few = open_source([f"array_record:{tmp_path}/t", f"few:50%:array_record:{tmp_path}/t"])
    assert [few[k]["id"] for k in range(10, 15)] == [f"0/{few[k]['text']}" for k in range(10, 15)]


def test_an_id_of_null_is_none(tmp_path):
    some = write(tmp_path / "x.jsonl", ({"id": None, "text": "a"} for _ in range(200)))
    assert sorted(ids(f"{some}[:50% by hash(id)]") + ids(f"{some}[50%: by hash(id)]")) == [
        *range(200)
    ]
    assert 60 < len(ids(f"{some}[:50% by hash(id)]")) < 140


def test_a_record_that_stands_in_two_slices_has_one_id(hundred):
    source = open_source(
        [hundred, f"{hundred}[:10]", "synthetic:text:3", f"few:10%:{hundred}[:50%]"]
    )
    found = [source[k] for k in range(len(source))]
    assert found[3]["id"] == found[103]["id"] == "0/r3"
    assert found[110]["id"] == "2/0"
    assert all(e["id"] == f"0/{e['id'][2:]}" and e["id"][2] == "r" for e in found[113:])


def test_a_record_keeps_its_id_in_the_slices_that_tfds_makes(tmp_path):
    test_sources.TinyBoxes(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    whole = f"tfds:{tmp_path}/tiny_boxes/1.0.0:train"
    parts = [whole, f"{whole}[:34%]", f"{whole}[1:]", f"{whole}[1:][:50% by hash(text)]"]
    opened = open_source(parts)
    found = [opened[k] for k in range(len(opened))]
    assert [example["id"] for example in found[:6]] == [*["0/0", "0/1", "0/2"] * 2]
    number = {example["text"][0]: example["id"] for example in found[:3]}
    assert all(example["id"] == number[example["text"][0]] for example in found)
    several = open_source(f"{whole}[2:]+train[:1]")  # numbered as one
    assert [several[k]["id"] for k in range(2)] == [0, 1] and not several.origin


def test_a_source_is_the_same_however_its_path_is_spelt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "r.jsonl", ({"text": f"{k}"} for k in range(3)))
    (tmp_path / "link").symlink_to(tmp_path)
    spelt = ["r.jsonl", "./r.jsonl", f"{tmp_path}/r.jsonl[1:]", "link/r.jsonl"]
    found = ids([f"jsonl:{path}" for path in spelt] + ["few:100%:jsonl:./link/r.jsonl"])
    assert found == [f"0/{k}" for k in [0, 1, 2, 0, 1, 2, 1, 2, 0, 1, 2, 0, 1, 2]]


def test_records_without_an_id_are_said_to_change_sides(tmp_path, hundred, caplog):
    assert ids(f"{hundred}[:80% by hash(id)]") and not caplog.messages
    some = write(tmp_path / "none.jsonl", ({"text": f"text {k}"} for k in range(100)))
    parts = [open_source(f"{some}[{part} by hash(id)]") for part in (":80%", "80%:")]
    assert sum(map(len, parts)) == 100
    [said] = caplog.messages
    assert said.startswith(f"{some}: hash(id) of 100 of 100 records is of their numbers")
    assert ids(f"{some}[:80% by hash(text)]") and len(caplog.messages) == 1


def test_classes_and_losses_are_those_of_the_source(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for k in range(5):
            (tmp_path / name / f"{k}.jpg").write_bytes(b"")
    source = open_source(f"folder:{tmp_path}[5:]")
    assert (len(source), source.class_names, source[0]["label"]) == (5, ["cat", "dog"], 1)


def test_a_file_may_be_named_like_a_slice(tmp_path):
    spec = write(tmp_path / "x.jsonl[:5]", [{"text": "a"}])
    assert selection.read(spec) is not None
    assert len(open_source(spec)) == 1


@pytest.mark.parametrize(
    ("brackets", "message"),
    [
        ("[:200]", r"means the records from 0 to 200, and there are 100"),
        ("[60:40]", r"from 60 to 40"),
        ("[:150%]", r"from 0 to 150, and there are 100"),
        ("[5:5]", r"of 100 records none is left"),
        ("[::2]", r"ends in \[::2\]; possible: \[:90%\]"),
        ("[:1.5]", r"counted in whole numbers"),
        ("[:90 by hash(id)]", r"by hash only shares can be had, such as \[:95% by hash\(id\)\]"),
        ("[60%:40% by hash(id)]", r"shares lie between 0% and 100%, in this order"),
        ("[hash(id)<90%]", r"ends in \[hash\(id\)<90%\]; possible"),
        ("[:90% by hash(label)]", r"record 0 \(.*x.jsonl, line 1\) has no 'label', but id, image"),
    ],
)
def test_brackets_that_cannot_be(hundred, brackets, message):
    with pytest.raises(ValueError, match=message):
        open_source(hundred + brackets)
