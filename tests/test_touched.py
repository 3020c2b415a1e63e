"""The note of how often test data were looked at."""

import json

import pytest

from unified_fm import touched


@pytest.mark.parametrize(
    "name, source, said",
    [
        ("test", "folder:data/imagenet/val", True),
        ("testA", "refcoco:x.json", True),
        ("dev", "demo:mnist/test", True),
        ("given", "nlvr2:data/nlvr2/test1.json", True),
        ("val", "karpathy:coco.json:val+karpathy:coco.json:test@data/coco", True),
        ("val", "few:30:glue:data/glue/RTE:test", True),
        ("val", "vqa:v2_OpenEnded_mscoco_test2015_questions.json", True),
        ("dev", "demo:scenes/val", False),
        ("tested", "jsonl:latest/contest.jsonl", False),
        ("dev", "jsonl:/data/test/dev.jsonl@/data/test", False),  # a folder is no split
    ],
)
def test_test_data_are_known_by_a_name(name, source, said):
    assert touched.is_test(name, source) == said


def test_every_evaluation_is_noted_with_its_date(tmp_path):
    assert touched.read(tmp_path) == {}
    assert touched.add(tmp_path, "a:test", {"step": 3}) == 1
    assert touched.add(tmp_path, "a:test", {"step": 3}) == 2
    assert touched.add(tmp_path, "b:test", {"step": 3}) == 1
    found = json.loads((tmp_path / "test_touched.json").read_text())
    assert [one["step"] for one in found["a:test"]] == [3, 3]
    assert found["b:test"][0]["date"].startswith("20")


def test_what_is_noted_already_is_not_noted_twice(tmp_path):
    touched.add(tmp_path, "a:test", {"cell": "1f"})
    assert touched.add(tmp_path, "a:test", {"cell": "1f"}, once="cell") == 1
    assert touched.add(tmp_path, "a:test", {"cell": "2a"}, once="cell") == 2
    assert touched.read(tmp_path)["a:test"][1] == {"date": None, "cell": "2a"}


def test_a_damaged_note_is_said_and_begun_anew(tmp_path, caplog):
    (tmp_path / touched.FILE).write_text('{"a:test": 3')
    assert touched.add(tmp_path, "a:test", {}) == 1
    assert "test_touched.json is damaged, and the count begins anew" in caplog.text
