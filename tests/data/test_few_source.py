"""`few:`: a part of a source, by the hash of ids."""

import collections
import hashlib
import json

import pytest

from unified_fm.data import records
from unified_fm.data.source import open_source


@pytest.fixture
def labelled(tmp_path):
    """Sixty records of three classes, with ids, in JSON lines."""
    path = tmp_path / "labelled.jsonl"
    rows = [{"id": f"r{n}", "text": f"text {n}", "label": n % 3} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ids(spec: str) -> list[str]:
    source = open_source(spec)
    return [source[i]["id"] for i in range(len(source))]


def test_so_many_of_each_class_are_those_with_the_lowest_hashes(labelled):
    source = open_source(f"few:4:jsonl:{labelled}")
    found = [source[i] for i in range(len(source))]
    assert collections.Counter(e["label"] for e in found) == {0: 4, 1: 4, 2: 4}
    for label in range(3):
        members = [f"r{n}" for n in range(60) if n % 3 == label]
        members.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
        assert {e["id"] for e in found if e["label"] == label} == set(members[:4])
    numbers = [int(e["id"][1:]) for e in found]
    assert numbers == sorted(numbers)  # the order of the source
    assert source.place(0).endswith(f"line {numbers[0] + 1}")


def test_fewer_are_among_more(labelled):
    assert set(ids(f"few:2:jsonl:{labelled}")) < set(ids(f"few:7:jsonl:{labelled}"))
    assert set(ids(f"few:5%:jsonl:{labelled}")) < set(ids(f"few:20%:jsonl:{labelled}"))


def test_of_records_that_are_lost_with_a_file_a_part_has_its_part(tmp_path):
    rows = [{"id": n, "text": "a"} for n in range(400)]
    shards = records.write_shards(tmp_path / "x", rows, per_shard=100)
    shards[1].write_bytes(shards[1].read_bytes()[:700])
    whole, part = (open_source(f"{few}array_record:{tmp_path}/x") for few in ("", "few:10%:"))
    assert (len(whole), whole.lost) == (300, 100)
    assert (len(part), part.lost) == (30, 10)


def test_a_share_needs_no_labels(labelled, tmp_path):
    assert len(ids(f"few:5%:jsonl:{labelled}")) == 3
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps({"text": str(n)}) + "\n" for n in range(10)))
    assert len(ids(f"few:50%:jsonl:{plain}")) == 5
    with pytest.raises(ValueError, match="no record has a label; take a share of them: few:5%"):
        open_source(f"few:5:jsonl:{plain}")


@pytest.mark.parametrize(
    ("amount", "message"),
    [
        ("some", "is neither few:COUNT:SOURCE"),
        ("21", "class 0 has 20 records; at most that many"),
        ("0%", "above 0 and at most 100 %, not 0 %"),
        ("200%", "not 200 %"),
        ("0.1%", "of 60 records none is left"),
        ("0", "of 60 records none is left"),
    ],
)
def test_what_cannot_be_chosen_is_said(labelled, amount, message):
    with pytest.raises(ValueError, match=message):
        open_source(f"few:{amount}:jsonl:{labelled}")


def test_scores_are_no_classes(tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text('{"text": "a", "label": 0.5}\n{"text": "b", "label": 1}\n')
    with pytest.raises(ValueError, match=r"record 0 has the label 0\.5; classes are whole numbers"):
        open_source(f"few:1:jsonl:{path}")


def test_records_that_cannot_be_read_are_none_of_a_class(tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"text": "a", "label": 0}\nno json\n{"text": "b", "label": 0}\n')
    source = open_source(f"few:2:jsonl:{path}")
    assert [source[i]["text"] for i in range(len(source))] == ["a", "b"]


def test_class_names_are_those_of_the_source(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "c" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "c" / name / f"{number}.png").write_bytes(b"not opened")
    source = open_source(f"few:1:folder:{tmp_path / 'c'}")
    assert list(source.class_names) == ["cat", "dog"] and len(source) == 2
