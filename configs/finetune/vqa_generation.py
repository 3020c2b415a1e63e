"""VQA v2 by a decoder that ranks a list of answers, X-FM's published way (sections 3.3 and 4.2).

    unified-fm data answers data/vqa/v2_mscoco_{train,val}2014_annotations.json \\
        --to=data/vqa/answers.json                                  # once; the run keeps a copy
    unified-fm train --config=finetune/vqa_generation --config.init=runs/xfm --workdir=runs/vqa

The decoder starts from the fusion encoder; its positions and segments, which that does not have,
from the language encoder. Trained on train alone, so that val may be reported; for the server add
val and Visual Genome to the source. `:smoke` runs two steps of a tiny model, `:demo` trains a small
one on composed scenes. A value with the comment "ours" is not the published one.
"""

from ml_collections import ConfigDict

from unified_fm.config import quick, settings
from unified_fm.data.streams import stream
from unified_fm.demo import corpus

FOLDER = "data/vqa"
NAME = "answer_decoder"
QUESTIONS, PAIRS = 24, 6  # ours: pairs of a question, on average, that a batch has room for
# The later pair counts where two fit.
FROM_FUSION = [
    ("(text_embed/.*)", rf"{NAME}/\1"),  # ours: published these start anew
    ("fusion/(.*)", rf"{NAME}/\1"),
    ("fusion_mlm_head/((?!embedding).*)", rf"{NAME}/mlm_head/\1"),
    ("fusion_mlm_head/embedding", rf"{NAME}/text_embed/word/embedding"),
]


def get_config(argument: str = "") -> ConfigDict:
    """The config; `argument` is "", "demo" or "smoke"."""
    c = settings.start(argument, known=("demo", "smoke"))
    c.init = dict(path=None, copy=FROM_FUSION, leave=[".*"])
    c.model = dict(of="init", image_size=480)
    c.tokenizer = "data/roberta-base"  # of a model from scratch; else the one of `init`
    learnt = dict(k_test=128, first_token_twice=False)  # ours: published it counts twice
    c.streams = dict(
        task=stream(
            "vqa_generation",
            _source("train2014"),
            QUESTIONS * PAIRS,
            dict(vqa_generation=learnt),
            images=QUESTIONS,
            groups=8,  # ours: up to eight devices share a batch between groups
            answers=f"{FOLDER}/answers.json",
            size=480,
            crop_scale=(0.5, 1.0),
            max_len=40,
            max_words=30,
        )
    )
    c.total_steps = "10 epochs"
    c.optimizer = dict(lr=2e-5, b2=0.98, eps=1e-8, weight_decay=0.01, clip=None)
    c.optimizer.schedule = dict(name="linear", warmup="10%")
    c.evaluate.every = "1 epoch"
    dev = dict(name="vqa_generation", like="task", source=_source("val2014"), batch_size=QUESTIONS)
    c.evaluate.evaluators = dict(dev=dev, written=dict(method="written", **dev))
    c.checkpoint = dict(every="1 epoch", best="dev/accuracy", keep=1)
    recipe = settings.one_of(argument, ("demo", "smoke"))
    if recipe == "demo":
        _demo(c)
    if recipe == "smoke":
        _smoke(c)
    return c


def _source(split: str) -> str:
    questions = f"{FOLDER}/v2_OpenEnded_mscoco_{split}_questions.json"
    return f"vqa:{questions}:v2_mscoco_{split}_annotations.json@data/coco"


def _demo(c: ConfigDict) -> None:
    """As of `vqa:demo`; all who were asked say the same, so a question has one pair. All ours."""
    sources = {split: f"demo:vqa/{split}" for split in ("train", "val", "test")}
    options = dict(answers=str(corpus.folder() / "vqa/answers.json"), images=32, groups=1)
    quick.made(c, "vqa", sources, steps=400, batch=32, max_len=20, **options)


def _smoke(c: ConfigDict) -> None:
    """Two steps, one layer, three answers: everything runs, nothing is learnt."""
    c.init.path = "scratch"
    c.total_steps, c.evaluate.every, c.checkpoint.every = 2, 1, 1
    c.tokenizer = "bytes"
    layers = dict(layers=1, width=16, heads=2, mlp_width=32)
    tiny = dict(name="xfm", vocab_size=300, text=layers, vision=layers, fusion=layers)
    c.model = dict(of="init", otherwise=tiny, image_size=16, patch_size=8)
    c.streams.task.update(batch_size=4, images=2, groups=1, size=16, patch_size=8)
    for evaluator in c.evaluate.evaluators.values():
        evaluator.batch_size = 2
