"""The command `unified-fm predict`: one line for each item, also for one that cannot be used."""

import io
import json

import pytest

from tests.inference import runs
from unified_fm.commands import predict
from unified_fm.inference import loading
from unified_fm.inference.records import read


@pytest.fixture
def call(model, workdir, tmp_path, monkeypatch, capsys):
    """Runs the command on a model that is loaded already; returns (status, lines, errors)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict, "load", lambda run, **options: model)
    for name in ("red", "blue"):
        (tmp_path / f"{name}.png").write_bytes(runs.png(runs.picture(name)))

    def run(*arguments, stdin=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        status = predict.main([f"--run={workdir}", *arguments], "unified-fm predict")
        told = capsys.readouterr()
        return status, [json.loads(line) for line in told.out.splitlines()], told.err

    return run


def test_images_with_one_text(call, model):
    status, lines, err = call("--task=match", "--text=a red square", "red.png", "blue.png")
    assert status == 0 and [line["id"] for line in lines] == ["red.png", "blue.png"]
    expected = model.match(["red.png", "blue.png"], "a red square")
    assert [line["probability"] for line in lines] == pytest.approx(list(expected), abs=1e-6)
    assert "2 items in" in err and "0 of them bad" in err


def test_lines_of_a_file_and_a_bad_one_among_them(call, model, tmp_path):
    rows = [
        {"id": 7, "image": "red.png", "text": "a red square"},
        {"image": "gone.png", "text": "a red square"},
        {"image": "../red.png", "text": "a red square"},
        {"id": "x", "text": "no picture"},
        {"image": "blue.png", "text": "a blue square"},
    ]
    text = "\n".join([*map(json.dumps, rows), "{", ""])
    (tmp_path / "rows.jsonl").write_text(text)
    status, lines, err = call("--task=locate", "rows.jsonl", "--batch-size=4")
    assert status == 1
    ids = [7, "rows.jsonl:2", "rows.jsonl:3", "x", "rows.jsonl:5", "rows.jsonl:6"]
    assert [line["id"] for line in lines] == ids
    assert [("error" in line) for line in lines] == [False, True, True, True, False, True]
    assert "missing image" in lines[1]["error"]
    assert "outside the data folder" in lines[2]["error"]
    assert lines[3]["error"] == "it has no image"
    assert "invalid JSON" in lines[5]["error"]
    assert lines[0]["box"] == pytest.approx(model.locate("red.png", "a red square")[:4], abs=1e-4)
    assert "rows.jsonl:2: images: missing image" in err and "4 of them bad" in err


def test_standard_input_and_texts_alone(call, model):
    rows = [{"text": "a red square"}, {"image": "red.png"}]
    status, lines, _ = call("--task=encode", "-", stdin="\n".join(map(json.dumps, rows)))
    assert status == 0
    assert {*lines[0]} == {"id", "text"} and {*lines[1]} == {"id", "image"}
    assert lines[0]["text"] == pytest.approx(model.encode_text("a red square"), abs=1e-5)


def test_masks_classes_and_what_cannot_be_done(call, model, workdir):
    status, [line], _ = call("--task=fill_mask", "--text=a [MASK] square", "--k=2", "red.png")
    assert status == 0
    assert [len(words) for words in line["masks"]] == [2]
    _, [line], _ = call("--task=classify", "--labels=red,blue", "red.png")
    assert sorted(name for name, _ in line["classes"]) == ["blue", "red"]
    status, lines, err = call("--task=caption", "red.png")
    assert (status, lines) == (2, []) and "no caption decoder; it can: encode_image" in err
    flags = [line.partition(f"--run={workdir} --task=")[2] for line in err.splitlines()[2:]]
    tasks = ["match", "locate", "fill_mask", "classify --labels=NAME,NAME", "encode"]
    assert flags == [f"{task} FILE" for task in tasks]


def test_fewer_than_one_word_and_a_label_without_an_image_are_said(call):
    status, lines, err = call("--task=fill_mask", "--text=a [MASK]", "--k=0", "red.png")
    assert (status, lines) == (2, []) and "k is 0; at least 1 is needed" in err
    status, [line], _ = call("--task=classify", "--labels=red,blue", "-", stdin='{"text": "red"}')
    assert (status, line["error"]) == (1, "it has no image")


def test_a_missing_file_and_a_missing_run_are_refused_before_anything(call, monkeypatch, capsys):
    status, lines, err = call("--task=match", "--text=a", "no.png")
    assert (status, lines) == (2, []) and "there is no file 'no.png'" in err
    monkeypatch.setattr(predict, "load", loading.load)
    assert predict.main(["--run=none", "--task=match", "--text=a", "red.png"]) == 2
    assert "there is no none" in capsys.readouterr().err


def test_records_name_their_place(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('\n{"text": "a"}\n[1]\n')
    found = list(read([str(file), "b.png"]))
    assert [(r.id, bool(r.problem)) for r in found] == [
        (f"{file}:2", False),
        (f"{file}:3", True),
        ("b.png", False),
    ]
