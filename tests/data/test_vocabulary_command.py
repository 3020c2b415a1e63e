"""`unified-fm data tokenizer`: a vocabulary of a source's texts, the same each time."""

import json

import pytest

from unified_fm import cli
from unified_fm.commands import _vocabulary
from unified_fm.data import tokenizer

LINES = [
    {"text": "the dogs ran home, running"},
    {
        "text": ["a small red dog", " ", "another dog"],
        "regions": [{"box": [0, 0, 1, 1], "text": "a cup"}],
    },
    {"question": "what runs?", "hypothesis": "zebras zebras zebras"},
    {"image": "no text.jpg", "text": ""},
] * 20


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES) + "broken\n")
    return f"jsonl:{path}"


def train(source, out, *options):
    return cli.main(["data", "tokenizer", source, f"--out={out}", "--quiet", *options])


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_it_is_the_same_each_time_and_is_written_whole(source, tmp_path, kind, capsys):
    for name in ("one", "two"):
        assert train(source, tmp_path / name, f"--kind={kind}", "--vocab=300") == 0
    said = capsys.readouterr().out
    assert "from 100 texts of 81 records" in said and "1 records skipped: " in said
    one, two = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("one", "two"))
    assert one == two
    assert {path.name for path in tmp_path.iterdir()} == {"texts.jsonl", "one", "two"}
    about = json.loads((tmp_path / "one" / "about.json").read_text())
    assert (about["kind"], about["vocab"], about["texts"]) == (kind, 300, 100)
    known = tokenizer.load(tmp_path / "one")
    assert about["size"] == known.vocab_size <= 300
    assert known.decode(known.encode("a small red cup runs?", 40).ids).startswith("a small red cup")
    assert known.has_mask


def test_a_folder_with_another_content_is_refused(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(source, out, "--vocab=200") == 0
    assert train(source, out, "--vocab=200") == 0
    assert f"{out} has it already" in capsys.readouterr().out
    before = (out / "tokenizer.json").read_bytes()

    assert train(source, out, "--vocab=201") == 1
    assert "holds a vocabulary with vocab 200, asked for is 201" in capsys.readouterr().err
    path = tmp_path / "texts.jsonl"
    path.write_text(path.read_text() + json.dumps({"text": "the zebra " * 99}) + "\n")
    assert train(source, out, "--vocab=200") == 1
    assert "holds another vocabulary (sha256 " in capsys.readouterr().err
    assert (out / "tokenizer.json").read_bytes() == before

    (out / "notes.txt").write_text("mine")
    assert train(source, out, "--vocab=200") == 1
    assert "is not empty (about.json, notes.txt, tokenizer.json)" in capsys.readouterr().err
    assert train(source, out / "notes.txt", "--vocab=200") == 1
    assert "is a file" in capsys.readouterr().err


def test_other_fields_and_no_text_at_all(source, tmp_path, capsys):
    assert train(source, tmp_path / "a", "--vocab=100", "--fields=hypothesis") == 0
    assert tokenizer.load(tmp_path / "a").token_id("zebras") is not None
    assert train(source, tmp_path / "b", "--fields=answer") == 1
    said = capsys.readouterr().err
    assert "none of its 81 records has a text in answer; their fields are " in said
    assert "hypothesis" in said and not (tmp_path / "b").exists()


def test_what_is_killed_leaves_no_folder_that_looks_done(source, tmp_path, monkeypatch):
    def full(temporary, out):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_vocabulary.os, "replace", full)
    assert train(source, tmp_path / "out", "--vocab=200") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]
