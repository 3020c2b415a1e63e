"""A whole board of made-up runs: what it asks for, and that stopping it changes no number."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tests.scoreboard.made_up import N, Trainer, lines
from unified_fm.scoreboard import board, fit, page, row
from unified_fm.scoreboard.cell import Cell, Hashes, short_hash

WORDS = ("cat", "dog", "cow", "hen")


@pytest.fixture
def task(tmp_path):
    """Animals from words that tell them three times of four."""
    paths = {}
    for name, count in (("train", 80), ("test", N)):
        paths[name] = tmp_path / f"{name}.jsonl"
        rows = [
            {"id": k, "text": f"a {WORDS[(k + (k % 16 == 0)) % 4]} {k % 7}", "label": k % 4}
            for k in range(count)
        ]
        paths[name].write_text("".join(json.dumps(each) + "\n" for each in rows))
    return board.Task(
        name="animals",
        kind="classification",
        baselines="texts",
        config="finetune/animals:demo",
        train=f"jsonl:{paths['train']}",
        test=f"jsonl:{paths['test']}",
        labels=("5", ""),
        changes=("total_steps=200",),
        published={"accuracy": {"another paper": 0.99}},
    )


def hashes(cell, data):
    kept = [change for change in fit.changes(cell) if not change.startswith("init")]
    return Hashes(config=short_hash([cell.config, kept]), data=data, checkpoint=cell.init)


def run(task, folder, train, **more):
    whole = board.Board(tasks=[task], init="runs/x", seeds=(0, 1))
    return whole.run(folder, train=train, hashes=hashes, **more)


def numbers(rows):
    return [{k: v for k, v in each.plain().items() if k != "seconds"} for each in rows]


def test_every_cell_is_trained_once(task, tmp_path):
    train, told = Trainer(), []
    rows = run(task, tmp_path / "out", train, told=lambda rows, done, of: told.append((done, of)))
    assert len(train.asked) == len(set(train.asked)) == 2 * 2 * 2  # labels, arms, seeds
    assert told == [(1, 2), (2, 2)]
    few, full = rows
    assert (few.labels, full.labels) == ("5", "")
    assert few.scratch.value == pytest.approx(0.4) and full.scratch.value == 0.5
    assert few.pre_trained.value == pytest.approx(0.7) and full.pre_trained.value == 0.8
    # What words tell is better than these runs, however they begin.
    assert full.trivial.title == "TF-IDF and logistic regression"
    assert full.trivial.value > 0.9 and full.says == row.NOT_ENOUGH
    assert full.published == {"another paper": 0.99}
    assert few.tested == full.tested == 2 * (2 + 2 * 2)  # baselines, and seeds in both arms
    again = Trainer()
    assert numbers(run(task, tmp_path / "out", again)) == numbers(rows) and again.asked == []
    assert list((tmp_path / "out" / "work").iterdir()) == []  # runs are removed, cells are kept


@pytest.mark.parametrize("stop_at", [1, 3, 8])
def test_a_board_that_is_stopped_goes_on_and_ends_with_the_same_numbers(task, tmp_path, stop_at):
    wanted = numbers(run(task, tmp_path / "whole", Trainer()))
    train = Trainer(stop_at=stop_at)
    with pytest.raises(fit.Stopped) as stopped:
        run(task, tmp_path / "out", train)
    assert stopped.value.status == 143
    more = Trainer()
    assert numbers(run(task, tmp_path / "out", more)) == wanted
    assert train.asked[:-1] + more.asked == [*train.asked, *more.asked[1:]]
    assert more.asked[0] == train.asked[-1]  # it goes on in the same workdir


def test_a_run_that_fails_says_which_and_where(task, tmp_path):
    with pytest.raises(fit.Failed, match=r"animals, 5 labels .* scratch, seed 0: .* status 1; see"):
        run(task, tmp_path / "out", Trainer(stop_at=1, status=1))
    with pytest.raises(fit.Failed, match=r"no predictions/test-STEP.jsonl .* called 'test'"):
        run(task, tmp_path / "out", lambda arguments: 0)


def test_what_is_asked_of_a_run():
    task = board.Task(
        name="x", kind="vqa", baselines="questions", config="finetune/vqa:demo",
        train="demo:vqa/train", test="demo:vqa/test", changes=("total_steps=9",),
    )  # fmt: skip
    cell = task.cell("pre-trained", "5%", 3, "runs/first")
    assert fit.command(cell, pathlib.Path("w")) == [
        "--config=finetune/vqa:demo",
        "--workdir=w",
        "--config.init.path=runs/first",
        "--config.streams.task.source=few:5%:demo:vqa/train",
        "--config.evaluate.evaluators.test.source=demo:vqa/test",
        "--config.total_steps=9",
        "--config.seed=3",
    ]
    assert fit.command(task.cell("scratch", "", 3, "x"), "w")[2] == "--config.init.path=scratch"


def test_a_baseline_that_cannot_be_computed_is_said_in_its_column(task, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    rows = run(task, tmp_path / "out", Trainer())
    assert rows[0].trivial.title == "most frequent class"
    assert "TF-IDF and logistic regression needs scikit-learn" in rows[0].trivial_missing
    monkeypatch.undo()
    later = run(task, tmp_path / "out", Trainer())  # computed as soon as it can be
    assert later[0].trivial.title == "TF-IDF and logistic regression"
    assert later[0].trivial_missing == ""


def test_test_data_are_counted_over_all_that_a_folder_has_seen(task, tmp_path):
    """Another checkpoint looks at the same data; and so did cells of before that was noted."""
    first = run(task, tmp_path / "out", Trainer())[0].tested
    (tmp_path / "out" / "test_touched.json").unlink()
    assert run(task, tmp_path / "out", Trainer())[0].tested == first
    other = board.Board(tasks=[task], init="runs/y", seeds=(0, 1))
    rows = other.run(tmp_path / "out", train=Trainer(), hashes=hashes)
    assert [each.tested for each in rows] == [first + 2 * 2] * 2
    noted = json.loads((tmp_path / "out" / "test_touched.json").read_text())[task.test]
    assert [one["checkpoint"] for one in noted[-2:]] == ["runs/y"] * 2
    assert "animals, pre-trained, seed 1" in {one["name"] for one in noted}


def test_a_teacher_is_an_arm_of_its_own(task, tmp_path):
    taught = dataclasses.replace(task, teacher="runs/t", of_teacher=("streams.task.size=28",))
    train, asked = Trainer(), []
    rows = run(taught, tmp_path / "out", lambda given: asked.append(given) or train(given))
    assert len(asked) == 2 * 3 * 2
    theirs = [given for given in asked if "--config.init.path=runs/t" in given]
    assert len(theirs) == 4 and all("--config.streams.task.size=28" in given for given in theirs)
    assert [each.teacher.value for each in rows] == [each.pre_trained.value for each in rows]
    assert rows[0].from_teacher.ci95 == (0, 0)  # the made-up runs are alike
    assert rows[0].hashes["teacher"] == ["runs/t"] and rows[0].hashes["checkpoint"] == ["runs/x"]
    text = page.markdown(rows, page.Facts())
    assert "| says | teacher | less the teacher | published | seeds | test evaluated |" in text
    assert row.Row.of(json.loads(json.dumps(rows[0].plain()))).teacher == rows[0].teacher
    before = rows[0].plain()
    del before["teacher"], before["from_teacher"]  # a board of an earlier version
    assert row.Row.of(json.loads(json.dumps(before))).teacher is None


def test_without_a_checkpoint_the_other_columns_are_filled(task, tmp_path):
    only = board.Board(tasks=[task], init="", seeds=(0,))
    rows = only.run(tmp_path / "out", train=Trainer(), hashes=hashes)
    assert rows[0].pre_trained is None and rows[0].scratch.value == pytest.approx(0.4)
    assert rows[0].says == row.MISSING


def test_a_checkpoint_is_known_by_its_files(tmp_path):
    run = tmp_path / "run"
    for step, content in ((100, b"old"), (200, b"new")):
        (run / "checkpoints" / str(step) / "params").mkdir(parents=True)
        (run / "checkpoints" / str(step) / "params" / "array").write_bytes(content)
    first = fit.checkpoint_hash(str(run))
    assert first == fit.checkpoint_hash(str(run / "checkpoints" / "200"))
    (run / "checkpoints" / "100" / "params" / "array").write_bytes(b"other")
    assert fit.checkpoint_hash(str(run)) == first  # the latest counts
    (run / "checkpoints" / "200" / "params" / "array").write_bytes(b"other")
    assert fit.checkpoint_hash(str(run)) != first
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"x")
    assert fit.checkpoint_hash(f"bert:{weights}") == fit.checkpoint_hash(str(weights))
    with pytest.raises(FileNotFoundError, match="there is no checkpoint in"):
        fit.checkpoint_hash(str(tmp_path / "nothing"))


KILLED = """
import os, pathlib, signal, sys
sys.path.insert(0, os.getcwd())
from tests.scoreboard import made_up, test_board
from unified_fm import files
from unified_fm.scoreboard import board

task = board.Task(**eval(sys.argv[1]))
left = int(sys.argv[3])
real = files.whole

class Dying(made_up.Trainer):
    def __call__(self, arguments):
        status = super().__call__(arguments)
        if len(self.asked) == left:
            os.kill(os.getpid(), signal.SIGKILL)
        return status

test_board.run(task, pathlib.Path(sys.argv[2]), Dying())
"""


@pytest.mark.slow
def test_a_board_that_is_killed_three_times_has_the_table_of_an_undisturbed_one(task, tmp_path):
    wanted = numbers(run(task, tmp_path / "whole", Trainer()))
    asked = repr({f: getattr(task, f) for f in task.__dataclass_fields__})
    for left in (2, 1, 3):
        command = [sys.executable, "-c", KILLED, asked, str(tmp_path / "out"), str(left)]
        ended = subprocess.run(command, env=os.environ, capture_output=True, text=True)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    train = Trainer()
    assert numbers(run(task, tmp_path / "out", train)) == wanted
    assert len(train.asked) == 8 - (1 + 0 + 2)  # the killed ones are made again


def test_pages_of_a_board(task, tmp_path):
    rows = run(task, tmp_path / "out", Trainer())
    about = page.Facts(title="A board", facts={"checkpoint": "runs/x"}, missing=1)
    page.write(tmp_path / "pages", rows, about)
    found = json.loads((tmp_path / "pages" / "scoreboard.json").read_text())
    assert [each["says"] for each in found["rows"]] == [each.says for each in rows]
    assert found["rows"][1]["pre_trained"]["value"] == 0.8
    text = (tmp_path / "pages" / "scoreboard.md").read_text()
    assert "# A board" in text and "1 more are not finished" in text
    assert "| animals | all | test (200) | accuracy | 25.0 % |" in text
    assert "| 50.0 % [" in text and "| +30.0 [" in text
    assert "| another paper 99.0 % | 2 | 12 times |" in text and "teacher" not in text
    assert "- hashes of animals, 5: config " in text
    html = (tmp_path / "pages" / "scoreboard.html").read_text()
    assert "<script" not in html and "http" not in html.replace("http-equiv", "").replace(
        "http://www.w3.org/", ""
    )
    assert "<svg" in html and "published, other data: another paper 99.0 %" in html


def test_what_a_page_shows_is_escaped(tmp_path):
    from tests.scoreboard.made_up import finished
    from unified_fm.scoreboard import compare

    name = "<b>|x</b>"
    rows = compare.rows(
        compare.Measured(name, "", "test", "classification"),
        trivial=[],
        scratch=[finished("scratch", 0.5)],
        pre_trained=[finished("pre-trained", 0.5, lines=lines(0.5))],
    )
    page.write(tmp_path, rows, page.Facts())
    assert "<b>|x" not in (tmp_path / "scoreboard.html").read_text()
    assert "<b>\\|x" in (tmp_path / "scoreboard.md").read_text()


def test_a_forest_plot_draws_every_row():
    from unified_fm.report import charts

    arm = charts.Arm(50.0, 45.0, 55.0)
    some = [
        charts.ForestRow("a", 25.0, 40.0, arm, charts.Arm(60, 55, 65), charts.Arm(10, 5, 15), True),
        charts.ForestRow("b", None, None, arm, None, None, False),
    ]
    svg = charts.to_svg(charts.forest(some), salt="x")
    assert ">a<" in svg and ">b<" in svg and "pre-trained minus scratch" in svg


def test_a_checkpoint_is_hashed_once_for_a_board(task, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(fit, "checkpoint_hash", lambda init: read.append(init) or "abc")
    monkeypatch.setattr(fit, "hashes_of", lambda cell, data, there: Hashes(config="c", data=data))
    whole = board.Board(tasks=[task], init="runs/x", seeds=(0, 1))
    assert len(whole.missing(tmp_path)) == 8 and whole.checkpoint == "abc"
    assert read == ["runs/x"]


def test_a_text_may_hold_a_separator_of_lines(tmp_path):
    text = json.dumps({"id": 1, "prediction": "a\u2028b", "truth": ["c"]}, ensure_ascii=False)

    def train(arguments):
        (tmp_path / "predictions").mkdir()
        (tmp_path / "predictions" / "test-5.jsonl").write_text(f"{text}\n", "utf-8")
        (tmp_path / "predictions" / "test-5.json").write_text('{"notes": []}')
        return 0

    cell = Cell(task="x", arm="scratch", config="c")
    found = fit.run(cell, Hashes(config="c", data="d"), tmp_path, train)
    assert [line["prediction"] for line in found.lines] == ["a\u2028b"]


def test_what_an_evaluator_does_not_score_is_no_row(tmp_path):
    """As of NLVR2 with missing images: its lines are there, and would make a number of a part."""

    def train(arguments):
        (tmp_path / "predictions").mkdir()
        (tmp_path / "predictions" / "test-5.jsonl").write_text(json.dumps(lines(0.5)[0]) + "\n")
        return 0

    cell = Cell(task="x", arm="scratch", config="c")
    with pytest.raises(fit.Failed, match=r"has predictions in .*test-5\.jsonl and no score"):
        fit.run(cell, Hashes(config="c", data="d"), tmp_path, train)
