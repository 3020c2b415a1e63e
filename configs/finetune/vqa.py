"""VQA v2 with a classifier over a list of answers; X-FM's rate, length and size (section 3.3).

    unified-fm data answers data/vqa/v2_mscoco_{train,val}2014_annotations.json \\
        --to=data/vqa/answers.json                                  # once; the run keeps a copy
    unified-fm train --config=finetune/vqa --config.init=runs/xfm --workdir=runs/vqa

A list of another length is told to the pipeline and to the head:
`--config.streams.task.classes=68 --config.streams.task.objectives.vqa.classes=68`.

X-FM itself writes answers with a decoder; the head over 3,129 answers is that of METER, ViLT and
BEiT-3. Trained on train alone, so that val may be reported. `:smoke` runs two steps of a tiny
model, `:demo` a small one on composed scenes, `:easy` on easy-VQA. A value with the comment "ours"
is not the published one.
"""

from ml_collections import ConfigDict

from unified_fm.config import quick, settings
from unified_fm.data.streams import stream
from unified_fm.demo import corpus

CLASSES = 3129  # answers that occur nine times in train and val
DEMO_CLASSES = 68  # 64 objects, two numbers, yes and no
EASY_CLASSES = 13  # three shapes, eight colours, yes and no
FOLDER = "data/vqa"


def get_config(argument: str = "") -> ConfigDict:
    """The config; `argument` is "", "demo", "easy" or "smoke"."""
    c = settings.start(argument, known=("demo", "easy", "smoke"))
    c.init = dict(path=None, fresh=["vqa_head/.*"], leave=[".*"])
    c.model = dict(of="init", image_size=480)
    c.tokenizer = "data/roberta-base"  # of a model from scratch; else the one of `init`
    c.streams = dict(
        task=stream(
            "vqa",
            _source("train2014"),
            24,
            dict(vqa=dict(classes=CLASSES)),
            answers=f"{FOLDER}/answers.json",
            classes=CLASSES,
            size=480,
            crop_scale=(0.5, 1.0),
            max_len=40,
            max_skip=0.2,  # ours: a question none of whose answers is in the list teaches nothing
        )
    )
    c.total_steps = "10 epochs"
    c.optimizer = dict(lr=2e-5, b2=0.98, eps=1e-8, weight_decay=0.01, clip=None)
    c.optimizer.schedule = dict(name="linear", warmup="10%")
    c.rules.lr_scale = [("vqa_head/.*", 10.0), (".*", 1.0)]  # ours: the head is new
    c.evaluate.every = "1 epoch"
    c.evaluate.evaluators = dict(dev=dict(name="vqa", like="task", source=_source("val2014")))
    c.checkpoint = dict(every="1 epoch", best="dev/accuracy", keep=1)
    recipe = settings.one_of(argument, ("demo", "easy", "smoke"))
    if recipe == "demo":
        _demo(c, "vqa", DEMO_CLASSES)
    if recipe == "easy":
        _demo(c, "easy_vqa", EASY_CLASSES)
    if recipe == "smoke":
        _smoke(c)
    return c


def _source(split: str) -> str:
    questions = f"{FOLDER}/v2_OpenEnded_mscoco_{split}_questions.json"
    return f"vqa:{questions}:v2_mscoco_{split}_annotations.json@data/coco"


def _demo(c: ConfigDict, part: str, classes: int) -> None:
    """What is seen and where, of the objects of the quick start or of plain shapes; all ours."""
    c.streams.task.objectives.vqa.classes = classes
    sources = {split: f"demo:{part}/{split}" for split in ("train", "val", "test")}
    answers = dict(answers=str(corpus.folder() / part / "answers.json"), classes=classes)
    quick.made(c, part, sources, steps=400, batch=32, max_len=20, **answers)


def _smoke(c: ConfigDict) -> None:
    """Two steps, one layer, three answers: everything runs, nothing is learnt."""
    c.init.path = "scratch"
    c.total_steps, c.evaluate.every, c.checkpoint.every = 2, 1, 1
    c.tokenizer = "bytes"
    layers = dict(layers=1, width=16, heads=2, mlp_width=32)
    tiny = dict(name="xfm", vocab_size=300, text=layers, vision=layers, fusion=layers)
    c.model = dict(of="init", otherwise=tiny, image_size=16, patch_size=8)
    c.streams.task.update(batch_size=2, size=16, patch_size=8, classes=3)
    c.streams.task.objectives.vqa.classes = 3
