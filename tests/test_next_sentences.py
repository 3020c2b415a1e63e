"""BERT's recipe with next-sentence prediction, end to end."""

import json
import math
import random

import numpy as np
import pytest

from unified_fm import main
from unified_fm.checkpoint import store
from unified_fm.data import tokenizer_training

CONFIG = "configs/teacher_bert.py:nsp,smoke"
WORDS = [f"{a}{b}" for a in ("ba", "do", "ki", "lu", "me", "no", "ri", "su") for b in ("la", "ta")]


def documents(count):
    """A document speaks of three things alone."""
    for number in range(count):
        rng = random.Random(number)
        own = rng.sample(WORDS, 3)
        yield " ".join(" ".join(rng.choices(own, k=4)) + "." for _ in range(12))


@pytest.mark.nightly
def test_a_run_with_next_sentences_trains_their_head(tmp_path, capfd):
    texts = list(documents(60))
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenizer_training.train_wordpiece(texts, 60, names=WORDS).save(tmp_path / "words")
    options = {
        "tokenizer": str(tmp_path / "words"),
        "streams.text.source": f"jsonl:{path}",
        "optimizer.lr": 1e-3,
        "total_steps": 6,
    }
    arguments = [f"--config.{key}={value}" for key, value in options.items()]
    run = tmp_path / "run"
    code = main.main(["main", f"--config={CONFIG}", f"--workdir={run}", *arguments])
    assert code == 0, capfd.readouterr().err
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["text/nsp"] for row in rows if "text/nsp" in row]
    assert losses[0] == pytest.approx(math.log(2), abs=0.1)
    assert {row["text/nsp/accuracy"] * 8 % 1 for row in rows if "text/nsp/accuracy" in row} == {0}
    assert all("text/mlm" in row for row in rows if "text/nsp" in row)
    bias = np.asarray(store.load_params(run / "checkpoints", 6)["next_sentence_head"]["bias"])
    assert bias.any() and bias.sum() == pytest.approx(0, abs=1e-4)  # it began at 0, both learn
