"""`unified-fm scoreboard` on two small tasks: its files, its rerun, its refusals."""

import dataclasses
import json
import pathlib
import re
import signal

import pytest

import unified_fm.main
from tests.scoreboard.made_up import Trainer
from tests.tasks import finetuning
from unified_fm import cli
from unified_fm.config import file as config_file
from unified_fm.data import tokenizer
from unified_fm.scoreboard import fit, lines, tasks
from unified_fm.scoreboard.board import Task
from unified_fm.tasks._baselines.table import BASELINES

WORDS = {0: ("dull", "bad"), 1: ("fine", "good")}


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Films that are good or bad, in two tasks; and a run to start from, by its config alone."""
    monkeypatch.chdir(tmp_path)
    for name, count in (("train", 16), ("test", 12)):
        rows = [
            {"id": k, "text": f"a {WORDS[k % 2][k // 2 % 2]} film {k}", "label": k % 2}
            for k in range(count)
        ]
        text = "".join(json.dumps(each) + "\n" for each in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    config = f"{finetuning.ROOT}/configs/finetune/glue.py:sst2,smoke"
    changes = tasks._changes("glue", ("dev",))
    made = {
        name: Task(
            name=name,
            kind="classification",
            baselines="texts",
            config=config,
            train="jsonl:train.jsonl",
            test="jsonl:test.jsonl",
            changes=(*changes, *more),
        )
        for name, more in (("films", ()), ("long-films", ("streams.task.max_len=40",)))
    }
    monkeypatch.setattr(tasks, "GROUPS", {"small": made})
    monkeypatch.setattr(tasks, "TASKS", made)
    layers = dict(layers=1, width=16, heads=2, mlp_width=32)
    model = dict(name="xfm", vocab_size=300, text=layers, vision=layers, fusion=layers)
    saved = tmp_path / "run" / "checkpoints" / "7"
    saved.mkdir(parents=True)
    (saved / "params").write_text("made up")
    (tmp_path / "run" / "config.json").write_text(json.dumps({"model": model}))
    return tmp_path


def board(*more: str, init: str = "run") -> int:
    return cli.main(["scoreboard", f"--init={init}", "--tasks=small", "--out=out", *more])


@pytest.mark.slow
def test_a_board_of_two_tasks_is_written_and_not_made_again(places, monkeypatch, capsys):
    train = Trainer()
    monkeypatch.setattr(unified_fm.main, "main", train)
    assert board("--seeds=2") == 0
    said = capsys.readouterr()
    assert len(train.asked) == 2 * 2 * 2
    assert "8 cells, 8 of them to be trained" in said.err
    assert "[1/8] films, scratch, seed 0" in said.err and "[8/8, ETA 0:0" in said.err
    assert "| films | all | test (12) | accuracy |" in said.out
    content = json.loads((places / "out" / "scoreboard.json").read_text())
    assert [row["task"] for row in content["rows"]] == ["films", "long-films"]
    assert content["missing"] == 0 and content["facts"]["checkpoint"].startswith("run, ")
    assert all(row["trivial"] and row["difference"] for row in content["rows"])
    assert "<svg" in (places / "out" / "scoreboard.html").read_text()
    assert (places / "out" / "scoreboard.md").read_text().startswith("# Scoreboard")
    again = Trainer()
    monkeypatch.setattr(unified_fm.main, "main", again)
    assert board("--seeds=2") == 0 and again.asked == []
    assert "8 cells, 0 of them to be trained" in capsys.readouterr().err
    assert board("--seeds=3") == 0 and len(again.asked) == 4  # the new seed alone


def test_a_signal_ends_it_with_its_status_and_the_same_command_goes_on(places, monkeypatch, capsys):
    train = Trainer(stop_at=3, status=128 + signal.SIGTERM)
    monkeypatch.setattr(unified_fm.main, "main", train)
    assert board("--seeds=1") == 143
    assert "the same command goes on where it was" in capsys.readouterr().err
    content = json.loads((places / "out" / "scoreboard.json").read_text())
    assert [row["task"] for row in content["rows"]] == ["films"] and content["missing"] == 1
    more = Trainer()
    monkeypatch.setattr(unified_fm.main, "main", more)
    assert board("--seeds=1") == 0
    assert len(more.asked) == 2 and more.asked[0] == train.asked[-1]


def test_the_scratch_arm_has_the_model_of_the_checkpoint(places, monkeypatch):
    asked = []
    monkeypatch.setattr(unified_fm.main, "main", lambda given: asked.append(given) or 1)
    assert board("--seeds=1") == 1
    assert "--config.model.of=run" in asked[0]
    assert "--config.init.path=scratch" in asked[0]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--tasks=film"], "task or group of tasks is 'film'; did you mean 'films'"),
        (["--tasks=films", "--init=nothing"], "films from --init=nothing: .*nothing.*config.json"),
        (["--tasks=films,long-films", "--seeds=0"], "--seeds=0: at least 1 is needed"),
    ],
)
def test_what_cannot_work_is_a_sentence(places, capsys, arguments, said):
    try:
        status = board(*arguments)
    except SystemExit as end:  # argparse's own way
        status = end.code
    assert status in (1, 2)
    assert re.search(said, capsys.readouterr().err, re.DOTALL)


def test_a_task_without_data_is_left_out_and_refused_where_it_was_named(
    places, monkeypatch, capsys
):
    monkeypatch.setattr(unified_fm.main, "main", Trainer())
    pathlib.Path("train.jsonl").unlink()
    assert board() == 1
    said = capsys.readouterr().err
    assert "left out: films: " in said and "--tasks=demo needs none" in said
    assert board("--tasks=films") == 1
    assert "left out" not in capsys.readouterr().err


@pytest.mark.slow
def test_real_runs_from_a_real_checkpoint(places, monkeypatch, capsys):
    with finetuning.quick(monkeypatch):
        first = ["streams.task.source=jsonl:train.jsonl", *tasks._changes("glue", ("dev",))]
        first.append("evaluate.evaluators.test.source=jsonl:test.jsonl")
        assert finetuning.train("glue:sst2,smoke", places / "real", *first, "report=False") == 0
        assert board("--seeds=1", init="real") == 0
    rows = json.loads((places / "out" / "scoreboard.json").read_text())["rows"]
    for row in rows:
        assert row["n"] == 12 and row["scratch"] and row["pre_trained"]
        assert len(row["hashes"]["checkpoint"]) == 1 and row["says"] != "not measured"
    assert list((places / "out" / "work").iterdir()) == []


def test_every_task_names_a_config_a_kind_and_baselines_that_there_are():
    for name, task in tasks.TASKS.items():
        assert task.kind in lines.KINDS and task.baselines in BASELINES, name
        settings = config_file.load(task.config, fit.changes(task.cell("scratch", "", 0, "")))
        assert {fit.EVALUATOR} <= set(settings.evaluate.evaluators) <= {fit.EVALUATOR, "val"}, name
        assert settings.evaluate.every == 0 and settings.checkpoint.best is None, name


def test_a_cell_is_known_by_what_files_hold_and_by_how_it_starts(places):
    """Not by where they lie: another tokenizer at the same path is another cell."""
    vocabulary = places / "vocabulary"
    vocabulary.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "film"]
    (vocabulary / "vocab.txt").write_text("\n".join(words))
    task = tasks.like(tasks.TASKS["films"], "run", str(vocabulary))

    def key(arm, task=task, init="run"):
        cell = task.cell(arm, "", 0, init)
        tokenizer._load.cache_clear()  # as in another process
        return fit.hashes_of(cell, "data", "abc").key(cell)

    before = key("scratch")
    (vocabulary / "vocab.txt").rename(places / "kept")
    (vocabulary / "vocab.txt").write_text("\n".join([*words, "good"]))
    assert key("scratch") != before
    started = dataclasses.replace(task, changes=(*task.changes, "init.fresh=['.*_head/.*']"))
    assert key("pre-trained", started) != key("pre-trained")
    (places / "elsewhere").symlink_to(places / "run")
    assert key("pre-trained", started, "elsewhere") == key("pre-trained", started)
