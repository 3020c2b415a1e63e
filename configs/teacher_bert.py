"""BERT, pre-trained from scratch: the text teacher of UFM (recipe of arXiv 1810.04805).

    python -m unified_fm.main --config=configs/teacher_bert.py --workdir=runs/teacher_bert

Arguments after a colon: `demo` is a small one for the demo corpus, minutes on two cores; `smoke`
runs two steps on made-up text. The published last tenth of the run has sequences of 512 tokens:
a second run with `--config.streams.text.max_len=512` and `c.init` of the first. Next-sentence
prediction is left out, as RoBERTa does; `nsp` adds it, on pairs cut from the same documents. A
value with the comment "ours" is not the published one.
"""

from ml_collections import ConfigDict

from unified_fm.config import settings
from unified_fm.data.streams import stream
from unified_fm.demo import corpus


def get_config(argument: str = "") -> ConfigDict:
    """The config.

    Args:
        argument: "", "demo", "smoke", or "demo,smoke": the demo with two steps; and "nsp" with
            any of them.
    """
    c = settings.start(argument, known=("demo", "smoke", "nsp"))
    c.total_steps = 1_000_000
    c.tokenizer = "data/bert-base-uncased"  # a folder with the published vocab.txt
    c.model = dict(  # the defaults are the published base size
        name="bert",
        vocab_size=30522,
        text=dict(gelu="tanh", init="truncated_normal"),
        dtype="bfloat16",  # ours: published float32
    )
    c.streams = dict(
        text=stream(
            "text",
            "array_record:data/text",  # English Wikipedia and BookCorpus
            256,
            dict(mlm=1.0),
            max_len=128,
            mask_rate=0.15,
            max_masked=20,
            mask_units="words",  # whole words: the option of the published program
        )
    )
    c.optimizer = dict(
        lr=1e-4,
        b1=0.9,
        b2=0.999,
        eps=1e-6,
        weight_decay=0.01,
        clip=1.0,
        project=(),
        schedule=dict(name="linear", warmup=10_000),
    )
    c.rules = dict(weight_decay=[(".*/(bias|scale)", 0.0), (".*", 1.0)], sharding="tensor")
    c.checkpoint.every = 10_000
    c.log.every = 100
    if "demo" in argument:
        _demo(c)
        c.total_steps = 2 if "smoke" in argument else c.total_steps
    elif "smoke" in argument:
        _smoke(c)
    if "nsp" in argument:
        c.streams.text.update(pipeline="sentence_pairs", objectives=dict(mlm=1.0, nsp=1.0))
    return c


def _demo(c: ConfigDict) -> None:
    """A teacher of the size of the demo's student, and what it reaches."""
    c.prepare = "demo:text,tokenizer"
    c.tokenizer = str(corpus.folder() / "tokenizer")
    c.total_steps = 600
    layers = dict(layers=3, width=64, heads=2, mlp_width=256, init="lecun_normal")
    layers |= dict(dropout=0.0, attention_dropout=0.0)
    c.model.update(vocab_size=2000, max_positions=32, dtype="float32", word_std=0.1)
    c.model.text.update(norm="pre", **layers)  # pre-LN learns faster in a short run
    words = dict(max_len=32, max_masked=6)
    c.streams.text.update(source="demo:text/train", batch_size=64, **words)
    held_out = dict(source="demo:text/val", num_examples=500, options=words)
    c.evaluate.evaluators = dict(
        mlm=dict(train_source="demo:text/train", **held_out),
        calibration=dict(of="mlm", pipeline="text", **held_out),  # a student learns its confidence
    )
    c.optimizer.update(lr=3e-3, schedule=dict(name="cosine", warmup="8%"))
    c.checkpoint.every = 500


def _smoke(c: ConfigDict) -> None:
    """Two steps, two layers, made-up data: everything runs, nothing is learnt."""
    c.total_steps = 2
    c.tokenizer = "bytes"
    c.model.update(vocab_size=261, max_positions=32, dtype="float32")
    c.model.text.update(layers=2, width=16, heads=2, mlp_width=32)
    c.streams.text.update(source="synthetic:text", batch_size=8, max_len=32, max_masked=6)
    c.optimizer.schedule.warmup = 1
    c.checkpoint.every = c.log.every = 1
