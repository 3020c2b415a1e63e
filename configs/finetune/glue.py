"""GLUE, one task at a time, by X-FM's published settings (its section 3.3 of fine-tuning).

    unified-fm train --config=finetune/glue:rte --config.init=runs/xfm --workdir=runs/rte
    unified-fm train --config=finetune/glue:mnli --config.init=roberta:data/roberta-base ...
    unified-fm train --config=finetune/glue:sst2,sentences --config.init=bert:PATH ...

Arguments after a colon, joined by commas: a task (sst2 if none is given), and `smoke`, two steps of
a tiny model, or, of sst2 alone, `demo`, a small one on reviews of films, or `sentences`, BERT's
recipe on all of them, for weights that know the language. The folders are those of GLUE's archives
below data/glue. X-FM does not say how it trains WNLI and has no early stop; a value
with the comment "ours" is not the published one.
"""

from ml_collections import ConfigDict

from unified_fm.config import quick, settings
from unified_fm.data.glue_files import TASKS
from unified_fm.data.streams import stream

# Task -> rate, batch (of one device: how many there were is not said), epochs.
PUBLISHED = dict(
    mnli=(2e-5, 32, 5),
    qqp=(2e-5, 32, 5),
    qnli=(2e-5, 32, 3),
    sst2=(2e-5, 32, 3),
    cola=(3e-5, 32, 20),
    mrpc=(5e-5, 32, 20),
    stsb=(5e-5, 32, 20),
    rte=(1e-5, 16, 20),
    wnli=(1e-5, 16, 5),  # ours
)
RECIPES = ("demo", "sentences", "smoke")
HEADLINE = dict(cola="matthews", mrpc="mean", qqp="mean", stsb="mean")


def get_config(argument: str = "") -> ConfigDict:
    """The config.

    Args:
        argument: a task and one of `RECIPES`, joined by a comma, or less.
    """
    c = settings.start(argument, known=(*PUBLISHED, *RECIPES))
    task = settings.one_of(argument, tuple(PUBLISHED)) or "sst2"
    recipe = settings.one_of(argument, RECIPES)
    for own in ("demo", "sentences"):  # sentiment: of sst2 alone
        settings.one_of(argument, (own, *(other for other in PUBLISHED if other != "sst2")))
    rate, batch, epochs = PUBLISHED[task]
    source = f"glue:data/glue/{TASKS[task].folder}"
    c.init = dict(path=None, fresh=["glue_head/.*"], leave=[".*"])
    c.model = dict(of="init")
    c.tokenizer = "data/roberta-base"  # of a model from scratch; else the one of `init`
    learnt = dict(glue=dict(task=task))
    c.streams = dict(task=stream("glue", f"{source}:train", batch, learnt, task=task, max_len=128))
    c.total_steps = f"{epochs} epochs"
    c.optimizer = dict(lr=rate, b2=0.999, eps=1e-8, weight_decay=0.0, clip=None)
    splits = dict(dev="dev_matched", mismatched="dev_mismatched") if task == "mnli" else None
    c.evaluate.every = "1 epoch"
    c.evaluate.evaluators = {
        name: dict(name="glue", like="task", source=f"{source}:{split}")
        for name, split in (splits or dict(dev="dev")).items()
    }
    c.checkpoint = dict(every="1 epoch", best=f"dev/{HEADLINE.get(task, 'accuracy')}", keep=1)
    if recipe == "demo":
        _demo(c)
    if recipe == "sentences":
        _sentences(c)
    if recipe == "smoke":
        _smoke(c)
    return c


def _demo(c: ConfigDict) -> None:
    """Passages of reviews, good or bad. The corpus has no third split: val is the test."""
    sources = dict(train="demo:sentiment/train", test="demo:sentiment/val")
    quick.made(c, "sentiment", sources, steps=300, batch=32, max_len=32)


def _sentences(c: ConfigDict) -> None:
    """Sentences of reviews, good or bad; the test are those that VADER alone has.

    The settings are of BERT's grid (section A.3 of its paper); nothing is selected. Of 48 tokens
    one sentence of 25 is longer. Without `init` the model has MiniLM's shape and the small
    vocabulary of the corpus.
    """
    train = "demo:sentiment/train+demo:sentiment/val"
    sources = dict(train=train, test="demo:ratings/test")
    quick.made(c, "sentiment,ratings", sources, steps=1, batch=32, max_len=48)
    c.total_steps = "3 epochs"
    layers = dict(layers=6, width=384, heads=12, mlp_width=1536)
    c.model = dict(of="init", otherwise=dict(name="bert", vocab_size=2000, text=layers))
    c.optimizer = dict(lr=5e-5, b2=0.999, eps=1e-6, weight_decay=0.01, clip=1.0)
    c.optimizer.schedule = dict(warmup="10%")
    c.checkpoint.every = "1 epoch"


def _smoke(c: ConfigDict) -> None:
    """Two steps, one layer: everything runs, nothing is learnt."""
    c.init.path = "scratch"
    c.total_steps, c.evaluate.every, c.checkpoint.every = 2, 1, 1
    c.tokenizer = "bytes"
    layers = dict(layers=1, width=16, heads=2, mlp_width=32)
    tiny = dict(name="xfm", vocab_size=300, text=layers, vision=layers, fusion=layers)
    c.model = dict(of="init", otherwise=tiny)
    c.streams.task.update(batch_size=2, max_len=32)
