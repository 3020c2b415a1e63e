"""A distilled run on the scoreboard: one encoder beside its two teachers, as UFM is measured."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from tests.tasks import finetuning
from unified_fm import cli, main
from unified_fm.commands import _starts
from unified_fm.scoreboard import tasks
from unified_fm.scoreboard.board import Task

LAYERS = {"layers": 1, "width": 16, "heads": 2, "mlp_width": 32}
WORDS = {"vocab_size": 300, "max_positions": 32}
PIXELS = {"image_size": 28, "patch_size": 7, "classes": 10}
MODELS = {
    "ufm": {"name": "ufm", "encoder": LAYERS, **WORDS, **PIXELS},
    "vit": {"name": "vit", "vision": LAYERS, **PIXELS},
    "bert": {"name": "bert", "text": LAYERS, **WORDS},
}


def write_run(folder: pathlib.Path, model: str, teachers: dict | None = None) -> None:
    (folder / "checkpoints" / "7").mkdir(parents=True)
    (folder / "checkpoints" / "7" / "params").write_text(f"made up: {model}")
    given = {"model": MODELS[model], "tokenizer": "bytes", "teachers": teachers or {}}
    (folder / "config.json").write_text(json.dumps(given))


@pytest.fixture
def run(tmp_path):
    """A student that has trained its teacher of images, and was given the one of texts."""
    entries = {
        "vit": {"path": "as/it/was/called/elsewhere", "streams": ["image"]},
        "bert": {"path": str(tmp_path / "bert"), "streams": ["text"]},
    }
    write_run(tmp_path / "ufm", "ufm", entries)
    write_run(tmp_path / "ufm" / "teachers" / "vit", "vit")
    write_run(tmp_path / "bert", "bert")
    return tmp_path / "ufm"


def ready(name: str, init: pathlib.Path) -> tuple[Task, list[str]]:
    said: list[str] = []
    return _starts.ready(name, tasks.TASKS[name], str(init), said.append), said


def test_each_task_has_the_teacher_that_can_do_it_and_pictures_of_the_models_size(run, tmp_path):
    digits, said = ready("digits-demo", run)
    assert (digits.teacher, said) == (str(run / "teachers" / "vit"), [])
    sizes = ("streams.task.size=28", "streams.task.patch_size=7")
    assert digits.changes[-2:] == sizes == digits.of_teacher
    sentiment, said = ready("sentiment-demo", run)
    assert (sentiment.teacher, sentiment.of_teacher, said) == (str(tmp_path / "bert"), (), [])
    with pytest.raises(ValueError, match=r"rte from --init=.*128.*32"):  # its published recipe
        ready("rte", run)
    of_checkpoint, _ = ready("sentiment-demo", run / "checkpoints" / "7")
    assert of_checkpoint.teacher == sentiment.teacher


def test_a_teacher_that_is_gone_is_said(run, tmp_path):
    (tmp_path / "bert" / "checkpoints" / "7" / "params").unlink()
    sentiment, said = ready("sentiment-demo", run)
    assert sentiment.teacher == ""
    assert [text.partition(" of ")[0] for text in said] == [
        "sentiment-demo: no arm for the teacher 'vit'",
        "sentiment-demo: no arm for the teacher 'bert'",
    ]
    assert "glue reads text, and the model 'vit' gives image" in said[0]
    assert "there is no checkpoint in" in said[1]


def test_a_run_without_teachers_has_no_such_arm(run):
    assert ready("digits-demo", run / "teachers" / "vit")[0].teacher == ""


def test_the_group_is_image_classification_and_language():
    assert {"digits-demo", "sentiment-demo", "cola", "imagenet"} <= tasks.GROUPS["ufm"].keys()


@pytest.mark.nightly
def test_one_encoder_and_both_teachers_are_fine_tuned_and_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, count in (("train", 12), ("test", 9)):
        rows = []
        for k in range(count):
            pixels = rng.integers(0, 60, (16, 16, 3), np.uint8)
            pixels[..., k % 2] += 150
            Image.fromarray(pixels).save(tmp_path / f"{name}{k}.png")
            text = ("a good film", "a dull film")[k % 2]
            rows.append({"id": k, "image": f"{name}{k}.png", "text": text, "label": k % 2})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    folder = f"{finetuning.ROOT}/configs/finetune"
    made = {
        name: Task(
            name=name,
            kind="classification",
            baselines=baselines,
            config=f"{folder}/{config}",
            train="jsonl:train.jsonl",
            test="jsonl:test.jsonl",
            changes=(*tasks._changes(evaluator, ("dev",)), *more),
        )
        for name, baselines, config, evaluator, more in (
            ("colours", "pictures", "image_classification.py:smoke", "image_classification", ()),
            ("films", "texts", "glue.py:sst2,smoke", "glue", ("streams.task.max_len=24",)),
        )
    }
    monkeypatch.setattr(tasks, "GROUPS", {"small": made})
    monkeypatch.setattr(tasks, "TASKS", made)
    with finetuning.quick(monkeypatch):
        config = f"{finetuning.ROOT}/configs/ufm_base.py:smoke"
        more = ["--config.log.tensorboard=False", "--config.report=False"]
        assert main.main(["main", f"--config={config}", "--workdir=ufm", *more]) == 0
        given = ["--init=ufm", "--tasks=small", "--seeds=1", "--out=out"]
        assert cli.main(["scoreboard", *given]) == 0
    content = json.loads((tmp_path / "out" / "scoreboard.json").read_text())
    assert content["facts"]["teachers"] == "ufm/teachers/bert, ufm/teachers/vit"
    for row in content["rows"]:
        assert row["n"] == 9 and row["scratch"] and row["pre_trained"] and row["teacher"]
        assert row["from_teacher"]["ci95"] and len(row["hashes"]["teacher"]) == 1
    text = (tmp_path / "out" / "scoreboard.md").read_text()
    assert "| less the teacher |" in text and text.count("| 11 times |") == 2  # both read one file
