"""`unified-fm data refcoco|answers|frequencies|submission`: files of others, and for them."""

import dataclasses
import json
import os
import sys

import fsspec
import pytest

from tests.tasks import official_files as files
from unified_fm import cli
from unified_fm.data.sources import refcoco
from unified_fm.tasks._metrics import ngrams, vqa_answers
from unified_fm.tasks._scoring import glue_submission


@pytest.mark.parametrize(
    ("given", "address"),
    [
        (["data", "check", "jsonl:a", "--out={}"], "gs://bucket/x"),
        (["data", "show", "jsonl:a", "--config=xfm_base:smoke", "--out={}"], "s3://bucket/x"),
        (["data", "convert", "jsonl:a", "--out={}"], "gs://bucket/x"),
        (["data", "tokenizer", "jsonl:a", "--out={}"], "s3://bucket/x"),
        (["data", "demo", "--to={}"], "gs://bucket/x"),
        (["data", "refcoco", "a.json", "--to={}"], "gs://bucket/x"),
        (["scoreboard", "--init=a", "--out={}"], "gs://bucket/x"),
        (["probe", "--run=a", "--out={}"], "gs://bucket/x"),
        (["convert", "export", "--from=a", "--to=xfm", "--out={}"], "s3://bucket/x"),
    ],
)
def test_what_is_written_is_local(tmp_path, monkeypatch, capsys, given, address):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text('{"text": "one"}\n')
    with pytest.raises(SystemExit) as ended:
        cli.main([part.format(address) for part in given])
    assert ended.value.code == 2
    copy = "gcloud storage cp -r DIR" if address.startswith("gs") else "aws s3 cp --recursive DIR"
    said = " ".join(capsys.readouterr().err.split())
    assert f"{address} is in a bucket, and this is written to local files only" in said
    assert f"({copy} {address})" in said
    assert os.listdir(tmp_path) == ["a"]


def test_the_demo_corpus_is_in_no_bucket(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNIFIED_FM_DATA", "gs://bucket/demo")
    assert cli.main(["data", "demo"]) == 1
    assert "the demo corpus reads local files only, not gs://bucket/demo" in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_a_missing_package_is_a_sentence(tmp_path, monkeypatch, capsys):
    def missing(protocol, **options):
        raise ImportError("Please install s3fs")

    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setattr(fsspec, "filesystem", missing)
    for verb, status in (("check", 2), ("convert", 1), ("tokenizer", 1)):
        for source, command in (
            ("parquet:a.parquet", "pip install 'unified_fm[parquet]'"),
            ("jsonl:s3://bucket/a.jsonl", 'pip install "unified_fm[s3]"'),
        ):
            assert cli.main(["data", verb, source, f"--out={tmp_path / 'out'}"]) == status
            assert command in capsys.readouterr().err


def test_refcoco_becomes_our_lines(tmp_path, capsys):
    ours = files.write_refcoco(tmp_path)
    assert cli.main(["data", "refcoco", str(ours), f"--to={tmp_path / 'again.jsonl'}"]) == 0
    assert "testA: 2 objects in 1 images, 3 expressions" in capsys.readouterr().out
    assert refcoco.read(tmp_path / "again.jsonl") == refcoco.read(ours)


def test_a_pickle_of_refcoco_is_a_sentence(tmp_path, capsys):
    assert cli.main(["data", "refcoco", "refs(unc).p", f"--to={tmp_path / 'x.jsonl'}"]) == 1
    assert "refs(unc).p is a pickle" in capsys.readouterr().err


def test_the_answers_of_annotations_are_counted(tmp_path, capsys):
    _, annotations = files.write_vqa(tmp_path)
    albef = [
        {"question_id": k, "question": "?", "answer": ["No."] * 6 + ["yes"] * 4, "image": "1.jpg"}
        for k in range(2)
    ]
    more = files.write_json(tmp_path / "vqa_train.json", albef)
    to = tmp_path / "answers.json"
    arguments = ["data", "answers", str(annotations), str(more), f"--to={to}", "--least=1"]
    assert cli.main(arguments) == 0
    answers = vqa_answers.load_list(to)
    assert answers.answers == ("no", "2", "red", "yes")
    assert f"4 answers of 5 questions (no, 2, red, ...), hash {answers.hash}" in (
        capsys.readouterr().out
    )
    assert json.loads(to.read_text()) == ["no", "2", "red", "yes"]


def test_the_words_of_training_captions_are_counted_by_image(tmp_path, capsys):
    karpathy = files.write_karpathy(tmp_path)
    to = tmp_path / "frequencies.json"
    assert cli.main(["data", "frequencies", str(karpathy), f"--to={to}"]) == 0
    found = ngrams.load_frequencies(to)
    assert found.images == 3  # train and restval, as everybody trains
    assert found.counts[("caption", "0", "</s>")] == 3
    assert found.counts[("picture", "5")] == 1
    assert f"of 3 images, hash {found.hash}" in capsys.readouterr().out

    rows = [{"image": "a.jpg", "caption": text, "image_id": 1} for text in ("a dog", "the dog")]
    albef = files.write_json(tmp_path / "coco_train.json", rows)  # a row for each caption
    assert cli.main(["data", "frequencies", str(albef), f"--to={to}"]) == 0
    assert ngrams.load_frequencies(to).counts[("dog", "</s>")] == 1


def test_glues_submission_is_made_of_what_runs_predicted(tmp_path, monkeypatch, capsys):
    two = {
        name: (dataclasses.replace(task, sizes={split: 2}), split)
        for name, (task, split) in glue_submission.FILES.items()
    }
    monkeypatch.setattr(glue_submission, "FILES", two)
    given = []
    for name, (task, _) in two.items():
        label = task.words[0] if task.classes else "2.5"
        path = tmp_path / f"{name.removesuffix('.tsv')}-800.tsv"
        path.write_text(f"index\tprediction\n1\t{label}\n0\t{label}\n")
        given.append(f"{name.removesuffix('.tsv')}={path}")
    to = tmp_path / "glue.zip"
    assert cli.main(["data", "submission", *given, f"--to={to}"]) == 0
    assert "22 predictions in 11 files" in capsys.readouterr().out
    assert glue_submission.read(to, "STS-B.tsv") == {"0": "2.500", "1": "2.500"}
    assert cli.main(["data", "submission", *given[1:], f"--to={to}"]) == 1
    assert "the server refuses a submission without CoLA.tsv" in capsys.readouterr().err
    (tmp_path / "CoLA.tsv").write_text("index\tprediction\n1\t0\n")
    assert cli.main(["data", "submission", str(tmp_path / "CoLA.tsv"), f"--to={to}"]) == 1
    assert "CoLA.tsv: row 0 is missing" in capsys.readouterr().err
