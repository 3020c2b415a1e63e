"""Predictions are written, read back and scored: in order, in batches of one size, by parts."""

import dataclasses
import json
import logging

import numpy as np
import pytest
from etils import epath

from tests.tasks import answering, official_files
from unified_fm.evaluators._passes import Passes, Processes
from unified_fm.tasks import glue
from unified_fm.tasks._scoring import glue_submission, scorers


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("glue")
    official_files.write_glue(root)
    rows = ["sentence\tlabel", *(f"{'good' * (n % 3 > 0)} film {n}\t{n % 2}" for n in range(7))]
    official_files.write_rows(root / "SST-2" / "dev.tsv", rows)
    return root


def by_length(batch):
    """The longer of the texts are positive: "good film" is, "film" is not."""
    length = batch["text_mask"].sum(-1)
    return {"logits": np.stack([12 - length, length - 12], axis=1).astype(np.float32)}


def evaluator(files, folder, split="dev", **options):
    source = f"glue:{files}/SST-2:{split}"
    learnt = {"task": "sst2"}
    return answering.evaluator(
        glue, source, epath.Path(folder), learnt=learnt, task="sst2", max_len=16, **options
    )


def test_predictions_are_written_in_order_and_scored_from_the_file(files, tmp_path):
    apply = answering.Apply(by_length)
    made = evaluator(files, tmp_path)
    made.check()
    found = {metric.name: metric for metric in made.run(apply, {})}
    assert apply.sizes == [2, 2, 2, 2]  # the last one is padded
    lines = [json.loads(line) for line in (tmp_path / "predictions" / "dev-7.jsonl").open()]
    assert [line["id"] for line in lines] == list(range(7))
    assert [line["prediction"] for line in lines] == ["0", "1", "1", "0", "1", "1", "0"]
    assert [line["truth"] for line in lines] == ["0", "1", "0", "1", "0", "1", "0"]
    assert found["accuracy"].value == pytest.approx(4 / 7)
    assert found["accuracy"].chance == pytest.approx(4 / 7)  # always "0"
    assert found["accuracy"].error > 0.1

    report = json.loads((tmp_path / "predictions" / "dev-7.json").read_text())
    assert report["step"] == 7 and report["source"] == made.source
    truth = files / "SST-2" / "dev.tsv"
    again = scorers.score_glue(tmp_path / "predictions" / "dev-7.jsonl", truth).report()
    assert report["metrics"]["accuracy"] == again["metrics"]["accuracy"]


def test_two_processes_have_each_a_part_of_the_lines(files, tmp_path):
    whole, _ = evaluator(files, tmp_path)._predicted(answering.Apply(by_length), {})
    parts = []
    for index in (0, 1):
        passes = Passes(index, 2)
        passes.processes = Own(index, 2)
        made = evaluator(files, tmp_path, passes=passes)
        lines, _ = made._predicted(answering.Apply(by_length), {})
        parts.append(lines)
    assert [len(part) for part in parts] == [4, 3]
    assert parts[0] + parts[1] == whole


@dataclasses.dataclass(frozen=True)
class Own(Processes):
    """Of several processes one, which hears nothing of the others."""

    def gather_values(self, values):
        return list(values)


def test_a_source_without_labels_gives_predictions_and_no_score(files, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="unified_fm")
    made = evaluator(files, tmp_path, split="test")
    made.check()
    assert list(made.run(answering.Apply(by_length), {})) == []
    assert "it has no labels, so they are not scored" in caplog.text
    assert not (tmp_path / "predictions" / "dev-7.json").exists()
    lines = [json.loads(line) for line in (tmp_path / "predictions" / "dev-7.jsonl").open()]
    assert [sorted(line) for line in lines] == [["id", "prediction"]] * 2
    submission = tmp_path / "predictions" / "dev-7.tsv"
    assert glue_submission.read(submission, "SST-2.tsv") == {"0": "0", "1": "0"}


def test_a_run_of_mnli_predicts_the_diagnostic_set_for_the_server(files, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="unified_fm")
    made = answering.evaluator(
        glue,
        f"glue:{files}/AX:test",
        epath.Path(tmp_path),
        learnt={"task": "mnli"},
        class_names=["entailment", "neutral", "contradiction"],
        task="mnli",
        max_len=32,
    )
    made.check()
    logits = np.array([[0, 0, 1], [1, 0, 0]], np.float32)
    assert list(made.run(answering.Apply(lambda batch: {"logits": logits}), {})) == []
    assert "it has no labels, so they are not scored" in caplog.text
    submission = tmp_path / "predictions" / "dev-7.tsv"
    assert glue_submission.read(submission, "AX.tsv") == {"0": "contradiction", "1": "entailment"}


def test_records_that_cannot_be_used_are_said(files, tmp_path, caplog):
    source = f"glue:{files}/QQP:dev"
    made = answering.evaluator(
        glue, source, epath.Path(tmp_path), learnt={"task": "qqp"}, task="qqp", max_len=16
    )
    found = {metric.name for metric in made.run(answering.Apply(by_length), {})}
    assert found == {"mean", "accuracy", "f1"}
    assert "1 records could not be used" in caplog.text
    report = json.loads((tmp_path / "predictions" / "dev-7.json").read_text())
    assert report["n"] == 2 and "1 records could not be used" in report["notes"]
    # A row is missing, so there is nothing for the server, which is said.
    assert not (tmp_path / "predictions" / "dev-7.tsv").exists()
    assert "dev-7.tsv is not written: GLUE's server wants every row" in caplog.text


def test_what_is_not_finite_is_wrong_and_never_the_best(files, tmp_path):
    def broken(batch):
        return {"logits": np.full((len(batch["text"]), 2), np.nan, np.float32)}

    found = {m.name: m.value for m in evaluator(files, tmp_path).run(answering.Apply(broken), {})}
    assert found == {"accuracy": 0.0}

    source = f"glue:{files}/STS-B:dev"
    made = answering.evaluator(
        glue, source, epath.Path(tmp_path), learnt={"task": "stsb"}, task="stsb", max_len=16
    )
    broken_score = answering.Apply(lambda batch: {"logits": broken(batch)["logits"][:, :1]})
    found = {metric.name: metric.value for metric in made.run(broken_score, {})}
    assert found == {"mean": 0.0, "pearson": 0.0, "spearman": 0.0}


def test_a_stream_or_an_objective_that_is_not_there_is_refused(files):
    given = {"source": "a:b", "streams": {"task": {"objectives": {"a": 1.0, "b": 1.0}}}}
    with pytest.raises(ValueError, match="like is 'tsk'; did you mean 'task'"):
        glue.Evaluator(like="tsk", **given)
    with pytest.raises(ValueError, match="objective is 'c'"):
        glue.Evaluator(like="task", objective="c", **given)
    with pytest.raises(ValueError, match="objective is ''"):
        glue.Evaluator(like="task", **given)
