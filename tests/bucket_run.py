"""A tiny run all of whose files lie below one place, BUCKET_RUN: a folder, or a bucket.

python -m tests.bucket_run make     its texts, tokenizer, teacher, and what the teacher says
python -m unified_fm.main --config=tests/bucket_run.py --workdir=$BUCKET_RUN/run
python -m tests.bucket_run show PLACES     what runs at several places have saved, as JSON
"""

import json
import os
import sys

import jax
import numpy as np

from tests import tiny_bert, tiny_config
from tests.tiny_bert import BERT
from unified_fm import buckets, rules
from unified_fm.checkpoint import store
from unified_fm.commands import cache
from unified_fm.config.settings import Settings
from unified_fm.data import tokenizer

ROOT = buckets.path(os.environ["BUCKET_RUN"])
RECORDS = 20


def get_config(cached=True):
    """The config; the teacher from its cache, or living."""
    c = tiny_config.get_config("4")
    taught = {"weight": 0.5, "teacher": "bert", "of": "mlm", "temperature": 2.0}
    c.streams = {"text": c.streams["text"].to_dict()}
    c.streams.text.update({"source": f"jsonl:{ROOT}/texts.jsonl", "max_masked": 3})
    c.streams.text.objectives = {"mlm": 0.5, "distill": taught}
    c.tokenizer = f"{ROOT}/words"
    where = {"cache": f"{ROOT}/cache"} if cached else {"path": f"{ROOT}/bert", "model": BERT}
    c.teachers = {"bert": {"streams": ["text"], **where}}
    c.loader = {"processes": 1}
    c.optimizer.schedule = {"name": "constant"}  # the same for any number of steps
    return c


def make():
    """Writes all that the run reads."""
    texts = [{"text": f"text {k} of {RECORDS}"} for k in range(RECORDS)]
    for name in ("words", "."):
        (ROOT / name).mkdir(parents=True, exist_ok=True)
    (ROOT / "texts.jsonl").write_text("\n".join(map(json.dumps, texts)))
    (ROOT / "words" / "tokenizer.json").write_text(tokenizer.load("bytes").text())
    tiny_bert.save(ROOT / "bert")
    living = Settings.of(get_config(cached=False).to_dict())
    cache.write(living, "bert", ROOT / "cache", epochs=2, top=5)


def show(*places):
    """Prints, for each place, {name: its sum}, and what the log and the workdir have."""
    for place in places:
        run = buckets.path(place) / "run"
        saved = rules.named_leaves(store.load_params(run))
        sums = {name: float(np.asarray(x, np.float64).sum()) for name, x in saved}
        rows = (run / "metrics.jsonl").read_text().splitlines()
        losses = [json.loads(row).get("text/distill") for row in rows]
        kept = [each.name.partition("-")[0] for each in (run / "assets").iterdir()]
        print(json.dumps({"sums": sums, "losses": losses, "assets": sorted(kept)}))


if __name__ == "__main__":
    jax.config.update("jax_disable_most_optimizations", True)
    {"make": make, "show": show}[sys.argv[1]](*sys.argv[2:])
