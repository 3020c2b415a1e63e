"""What a scoreboard can measure: the demo corpus, and official files below `data/`.

The demo tasks are the fine-tuning configs at `:demo`, all with test examples that no choice was
made by, but for `sentiment`, whose corpus has two splits. `sentences` has BERT's recipe in place of
that of a small model, and for the test a file of its own (`demo.packages.RATINGS`). Those on
official files are the same configs as published; there the development set is the test, so nothing
is selected by it.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from unified_fm import choices
from unified_fm.data.glue_files import TASKS as GLUE
from unified_fm.scoreboard.board import Task
from unified_fm.scoreboard.published import PUBLISHED
from unified_fm.tasks._metrics.glue import AVERAGED


def _demo(name: str, config: str, **more) -> Task:
    part = more.pop("part", name)
    given = {"train": f"demo:{part}/train", "test": f"demo:{part}/test", "parts": (part,)}
    given["changes"] = ("prepare=None", *more.pop("changes", ()))  # prepared once, for all cells
    return Task(name=f"{name} (demo)", config=f"finetune/{config}", **given | more)


DEMO: Mapping[str, Task] = {
    "vqa-demo": _demo(
        "vqa",
        "vqa:demo",
        kind="vqa",
        baselines="questions",
        metrics=(
            "accuracy",
            "accuracy/yes/no",
            "accuracy/number",
            "accuracy/place",
            "accuracy/ground",
        ),
    ),
    "nlvr2-demo": _demo("nlvr2", "nlvr2:demo", kind="nlvr2", baselines="pairs of pictures"),
    "refcoco-demo": _demo(
        "refcoco",
        "refcoco:demo",
        kind="refcoco",
        baselines="expressions",
        test="demo:refcoco/testA+demo:refcoco/testB",
        split="testA, testB",
        metrics=("testA/accuracy", "testB/accuracy"),
    ),
    "retrieval-demo": _demo(
        "retrieval",
        "retrieval:demo",
        kind="retrieval",
        baselines="retrieval",
        part="captions",
        labels=("10%", ""),
    ),
    "digits-demo": _demo(
        "digits",
        "image_classification:demo",
        kind="classification",
        baselines="pictures",
        part="mnist",
        labels=("10", "30", "100"),
    ),
    "sentiment-demo": _demo(
        "sentiment",
        "glue:sst2,demo",
        kind="classification",
        baselines="texts",
        test="demo:sentiment/val",
        split="val",
        labels=("100", "1000"),
    ),
    "sentences-demo": _demo(
        "sentences",
        "glue:sst2,sentences",
        kind="classification",
        baselines="texts",
        train="demo:sentiment/train+demo:sentiment/val",
        test="demo:ratings/test",
        parts=("sentiment", "ratings"),
    ),
}


# What takes longer than the half hour of `demo`, or needs a package that few have.
MORE: Mapping[str, Task] = {
    "captioning-demo": _demo(
        "captioning",
        "captioning:demo",
        kind="captions",
        baselines="captions",
        part="captions",
        metrics=("cider", "bleu4"),
    ),
    # Two thirds are answered by the question alone: shape and colour need the picture.
    "easy-vqa-demo": _demo(
        "easy-VQA",
        "vqa:easy",
        kind="vqa",
        baselines="questions",
        part="easy_vqa",
        metrics=("accuracy", "accuracy/shape", "accuracy/colour"),
    ),
    "fashion-demo": _demo(
        "clothes",
        "image_classification:demo",
        kind="classification",
        baselines="pictures",
        part="fashion",
        labels=("10", "30", "100"),
        changes=("evaluate.evaluators.val=None",),  # that of the digits
    ),
}


def _changes(evaluator: str, old: Sequence[str]) -> tuple[str, ...]:
    """One evaluation, of the last step, and no selection."""
    return (
        f"evaluate.evaluators.test={{'name': {evaluator!r}, 'like': 'task'}}",
        *(f"evaluate.evaluators.{name}=None" for name in old),
        "evaluate.every=0",
        "checkpoint.best=None",
    )


def _glue(name: str) -> Task:
    folder, pair = f"glue:data/glue/{GLUE[name].folder}", len(GLUE[name].texts) == 2
    dev = "dev_matched" if name == "mnli" else "dev"
    kinds = ("pairs of texts" if len(GLUE[name].classes) == 2 else "texts") if pair else "texts"
    return Task(
        name=name,
        kind=f"glue {name}",
        baselines=kinds if GLUE[name].classes else "scores of texts",
        config=f"finetune/glue:{name}",
        train=f"{folder}:train",
        test=f"{folder}:{dev}",
        split=dev,
        metrics=("mean", "pearson") if name == "stsb" else (),
        changes=_changes("glue", ("dev", "mismatched") if name == "mnli" else ("dev",)),
        published=PUBLISHED.get(name, {}),
    )


# All but WNLI, whose development set no honest model is right about.
OWN_GLUE = {name: _glue(name) for name in AVERAGED}
OWN_VISION = {
    "imagenet": Task(
        name="imagenet",
        kind="classification",
        baselines="many pictures",
        config="finetune/image_classification",
        train="folder:data/imagenet/train",
        test="folder:data/imagenet/val",
        split="val",
        changes=_changes("image_classification", ("dev",)),
        published=PUBLISHED["imagenet"],
    )
}
_VQA = "vqa:data/vqa/v2_OpenEnded_mscoco_{0}_questions.json:v2_mscoco_{0}_annotations.json"
_KARPATHY = {
    name: f"karpathy:data/{name}/dataset_{name}.json:{{}}@data/{name}"
    for name in ("coco", "flickr30k")
}
_REFCOCO = "refcoco:data/refcoco/finetune_refcoco+_{}.json@data/coco/train2014"


def _retrieval(data: str, config: str) -> Task:
    """All captions, and the best 256 of each query again."""
    options = {"size": 384, "max_len": 40, "max_words": 40}
    test = {"name": "retrieval", "num_examples": None, "candidates": 0, "rerank": 256}
    test |= {"same": "ids", "mean": True, "options": options}
    own = "coco-retrieval" if data == "coco" else "flickr-retrieval"
    return Task(
        name=own,
        kind="retrieval",
        baselines="many retrievals",
        config=f"finetune/{config}",
        train=_KARPATHY[data].format("train"),
        test=_KARPATHY[data].format("test"),
        metrics=("mean_recall", "image_to_text/r1", "text_to_image/r1"),
        changes=(
            f"evaluate.evaluators.test={test}",
            "evaluate.evaluators.val=None",
            "evaluate.every=0",
            "checkpoint.best=None",
        ),
        published=PUBLISHED[own],
    )


OWN_VL = {
    "vqa": Task(
        name="vqa",
        kind="vqa",
        baselines="many questions",
        config="finetune/vqa",
        train=f"{_VQA.format('train2014')}@data/coco",
        test=f"{_VQA.format('val2014')}@data/coco",
        split="val",
        changes=_changes("vqa", ("dev",)),
        published=PUBLISHED["vqa"],
    ),
    "nlvr2": Task(
        name="nlvr2",
        kind="nlvr2",
        baselines="many pairs of pictures",
        config="finetune/nlvr2",
        train="nlvr2:data/nlvr2/train.json",
        test="nlvr2:data/nlvr2/test1.json",
        split="test-P",
        changes=_changes("nlvr2", ("dev",)),
        published=PUBLISHED["nlvr2"],
    ),
    "refcoco": Task(
        name="refcoco+",
        kind="refcoco",
        baselines="expressions",
        config="finetune/refcoco",
        train=_REFCOCO.format("train"),
        test="+".join(_REFCOCO.format(split) for split in ("testA", "testB")),
        split="testA, testB",
        metrics=("testA/accuracy", "testB/accuracy"),
        changes=_changes("refcoco", ("val",)),
        published=PUBLISHED["refcoco"],
    ),
    "coco-retrieval": _retrieval("coco", "retrieval"),
    "flickr-retrieval": _retrieval("flickr30k", "retrieval:flickr"),
    "captioning": Task(
        name="captioning",
        kind="captions",
        baselines="many captions",
        config="finetune/captioning",
        train=_KARPATHY["coco"].format("train"),
        test=_KARPATHY["coco"].format("test"),
        metrics=("cider", "bleu4"),
        changes=_changes("captioning", ("dev",)),
    ),
}
# Image classification and language, by which UFM's paper measures it: for a run of one encoder,
# whose two teachers are arms of their own.
UFM = {
    **{name: {**DEMO, **MORE}[name] for name in ("digits-demo", "fashion-demo", "sentiment-demo")},
    **OWN_GLUE,
    **OWN_VISION,
}
GROUPS: Mapping[str, Mapping[str, Task]] = {
    "demo": DEMO,
    "demo-more": MORE,
    "ufm": UFM,
    "glue": OWN_GLUE,
    "vision": OWN_VISION,
    "vl": OWN_VL,
    "all": {**OWN_GLUE, **OWN_VISION, **OWN_VL},
}
TASKS: Mapping[str, Task] = {**DEMO, **MORE, **GROUPS["all"]}


def chosen(text: str) -> dict[str, Task]:
    """The tasks that a list of names of tasks and groups means, each once.

    Raises:
        ValueError: another name, with the nearest.
    """
    found: dict[str, Task] = {}
    for word in filter(None, (word.strip() for word in text.split(","))):
        choices.check("task or group of tasks", word, (*GROUPS, *TASKS))
        found |= GROUPS.get(word) or {word: TASKS[word]}
    if not found:
        raise ValueError(f"no task is named; possible: {', '.join((*GROUPS, *TASKS))}")
    return found


def like(task: Task, init: str, tokenizer: str) -> Task:
    """The task, whose arm "scratch" has the model and the tokenizer that `init` has."""
    return dataclasses.replace(task, scratch=(f"model.of={init}", f"tokenizer={tokenizer}"))
