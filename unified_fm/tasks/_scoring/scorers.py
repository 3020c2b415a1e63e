"""Official files in, a score out, for each task: no model, no device, nothing but NumPy.

A scorer takes the predictions' file, the truth's, and options by name; `SCORERS` lists them.
"""

import dataclasses
import math
import pathlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from unified_fm import choices
from unified_fm.data import glue_files, official
from unified_fm.data.official import WrongFile
from unified_fm.data.skips import Skip
from unified_fm.data.sources import albef, coco, karpathy
from unified_fm.data.sources import nlvr2 as nlvr2_files
from unified_fm.data.sources import refcoco as refcoco_files
from unified_fm.data.sources import vqa as vqa_files
from unified_fm.tasks._metrics import captions, classification, glue, nlvr2, refcoco, statistic, vqa
from unified_fm.tasks._scoring import glue_submission, predictions
from unified_fm.tasks._scoring.rankings import score_retrieval
from unified_fm.tasks._scoring.scored import Scored

Path = pathlib.Path


class Scorer(NamedTuple):
    """A task's scorer, the options that it takes, and the files that it reads."""

    score: Callable[..., Scored]
    options: Sequence[str]
    predictions: str
    truth: str


def score_glue(said: Path, truth: Path, *, split: str = "", name: str = "") -> Scored:
    """GLUE: a submission's TSV (or the zip), against a split with labels.

    Args:
        said: `index<TAB>prediction`, a zip of such files, or JSON lines.
        truth: a TSV file in its task's folder, or the folder.
        split: of a folder ("dev", "dev_matched").
        name: of the task ("cola"), where the folder does not say it.

    Raises:
        ValueError: what cannot be scored; hidden labels are not.
    """
    folder, split = (truth, split or "dev") if truth.is_dir() else (truth.parent, truth.stem)
    task = glue_files.task_of(folder, name)
    if truth.is_dir():
        rows = glue_files.read(task, truth, glue_files.split_of(task, split))
    else:
        rows = glue_files.read_file(task, truth, split)
    usable = {n: row for n, row in enumerate(rows) if not isinstance(row, Skip)}
    labels = [row.label for row in usable.values()]
    if None in labels or not labels:
        raise WrongFile(f"{truth} has no labels: {task.folder}'s {split} is scored by the server")
    if said.suffix in (".tsv", ".zip"):
        found = glue_submission.read(said, _file_of(task, split))
    else:
        found = predictions.read(said, keys=("index", "id"))
    answers = predictions.in_order(found, list(usable), said, skipped=range(len(rows)))
    if task.classes:
        wanted = f"{', '.join(task.words)} (as words)"
        predictions.checked(answers, lambda word: word in task.words, wanted, said)
        values: tuple[Sequence, Sequence] = (answers, labels)
    else:
        predictions.checked(answers, _is_number, "a number", said)
        values = ([float(x) for x in answers], [float(x or 0) for x in labels])
    skipped = Counter(row.reason for row in rows if isinstance(row, Skip))
    scored = glue_scored(task.name, *values)
    return dataclasses.replace(
        scored,
        counts={**scored.counts, "skipped": len(rows) - len(usable)},
        settings={**scored.settings, "split": split},
        notes=[
            *scored.notes,
            *(f"{count} rows are left out: {reason}" for reason, count in skipped.items()),
        ],
    )


def glue_scored(task: str, answers: Sequence, labels: Sequence) -> Scored:
    """The score of a GLUE task: words as its files spell them, or numbers, of each example."""
    return Scored(
        counts={"examples": len(labels)},
        statistics=glue.measures(task, answers, labels),
        chance=glue.chance(task, labels),
        chance_is="best constant prediction",
        settings={"task": task},
        notes=glue.notes(task, answers),
    )


def score_vqa(said: Path, truth: Path, *, version: str = "2021") -> Scored:
    """VQA v2: results against annotations, overall and by answer type; units are images."""
    choices.check("version", version, vqa.VERSIONS)
    known = vqa_files.read_annotations(truth)
    found = predictions.read(said, keys=("question_id", "id"), of=("answer", "prediction"))
    answers = predictions.in_order(found, list(known), said)
    predictions.checked(answers, lambda answer: isinstance(answer, str), "a string", said)
    answered = list(known.values())
    return vqa_scored(
        answers,
        [a.answers for a in answered],
        [a.answer_type for a in answered],
        [str(a.image_id) for a in answered],
        version,
    )


def vqa_scored(
    answers: Sequence[str],
    texts: Sequence[Sequence[str]],
    kinds: Sequence[str],
    images: Sequence[str],
    version: str = "2021",
) -> Scored:
    """The score of an answer to each question.

    Args:
        answers: of the model.
        texts: of the annotators.
        kinds: the answer type; where one is "", no type is scored apart.
        images: which image each is about.
        version: of the evaluator.
    """
    kinds = kinds if all(kinds) else []
    best, chance = vqa.chance(texts, kinds, version)
    own = ", of each type its best answer" if kinds else ""
    return Scored(
        counts={"questions": len(texts), "images": len(set(images))},
        statistics=vqa.measures(answers, texts, kinds, version),
        chance=chance,
        chance_is=f"always {best!r}{own}; what the question alone tells reaches more",
        units=images,
        unit="images",
        settings={"version": version},
    )


def score_nlvr2(said: Path, truth: Path) -> Scored:
    """NLVR2: `identifier,prediction` against the published lines; units are sets of images."""
    pairs = nlvr2_files.read(truth)
    if not all(pair.label for pair in pairs):
        raise WrongFile(f"{truth} has no labels: it is scored by its authors")
    found = predictions.read(said, keys=("identifier", "id"))
    names = [pair.id for pair in pairs]
    answers = [str(answer) for answer in predictions.in_order(found, names, said)]
    predictions.checked(answers, lambda a: a in nlvr2_files.LABELS, "True, False", said)
    return nlvr2_scored(answers, [pair.label for pair in pairs], names)


def nlvr2_scored(answers: Sequence[str], labels: Sequence[str], names: Sequence[str]) -> Scored:
    """The score of pairs: "True" or "False" of each, and their identifiers."""
    return Scored(
        counts={"pairs": len(names), "sentences": len({nlvr2.sentence_of(n) for n in names})},
        statistics=nlvr2.measures(answers, labels, names),
        chance=nlvr2.chance(labels, names),
        chance_is="the more frequent answer",
        units=nlvr2.sets(names),
        unit="sets of images",
    )


def score_refcoco(
    said: Path, truth: Path, *, split: str = "", convention: str = "continuous"
) -> Scored:
    """RefCOCO: boxes of expressions; each split apart where there are several; units are images."""
    rows = refcoco_files.read(truth, split)
    found = predictions.read(said, keys=("sent_id", "id"), of=("box", "prediction"))
    boxes = predictions.in_order(found, [row.id for row in rows], said)
    predictions.checked(boxes, _is_box, "x, y, width, height in pixels", said)
    objects = {f"objects of {s}": n for s, (n, _, _) in refcoco_files.counts(rows).items()}
    scored = refcoco_scored(
        np.array(boxes, np.float64),
        np.array([row.box for row in rows]),
        np.array([row.size for row in rows]),
        [row.split for row in rows],
        [str(row.image_id) for row in rows],
        convention,
    )
    return dataclasses.replace(scored, counts={**scored.counts, **objects})


def refcoco_scored(
    boxes: np.ndarray,
    true: np.ndarray,
    sizes: np.ndarray,
    splits: Sequence[str],
    images: Sequence[str],
    convention: str = "continuous",
) -> Scored:
    """The score of a box for each expression, each split apart; "" is none, and names no metric.

    Args:
        boxes, true: f64[N 4], x, y, width, height in pixels.
        sizes: i[N 2], width and height of the image.
        splits, images: of each expression.
        convention: see `boxes.iou`.
    """
    measures, named = refcoco.measures(boxes, true, convention), np.array(splits)
    chance, parts = {}, {}
    for kind in dict.fromkeys(splits):
        part = named == kind
        guessed = refcoco.chance(true[part], sizes[part], convention)
        prefix = f"{kind}/" if kind else ""
        chance |= {f"{prefix}{name}": value for name, value in guessed.items()}
        parts |= {f"{prefix}{name}": _within(s, part) for name, s in measures.items()}
    return Scored(
        counts={"expressions": len(true)},
        statistics=parts,
        chance=chance,
        chance_is=f"best constant box{' of the split' if any(splits) else ''}",
        units=images,
        unit="images",
        settings={"convention": convention},
    )


def score_captions(said: Path, truth: Path, *, split: str = "") -> Scored:
    """Captions: COCO's results against its annotations, or against a split of Karpathy's file."""
    rows = read_captions(truth, split)
    found = predictions.read(said, keys=("image_id", "id"), of=("caption", "prediction"))
    answers = predictions.in_order(found, [row.id for row in rows], said)
    predictions.checked(answers, lambda answer: isinstance(answer, str), "a string", said)
    return captions_scored(answers, [row.captions for row in rows])


def captions_scored(answers: Sequence[str], texts: Sequence[Sequence[str]]) -> Scored:
    """The score of a caption of each image, beside its references."""
    notes = ["METEOR and SPICE need Java and are not offered"]
    if len(texts) == 1:
        notes.append(
            "one image alone: CIDEr-D is 0 whatever is said, for no word is rarer than another,"
            " and no other image's caption can be guessed"
        )
    return Scored(
        counts={"images": len(texts), "references": sum(map(len, texts))},
        statistics=captions.measures(answers, texts),
        chance=captions.chance(texts) if len(texts) > 1 else {},
        chance_is="a reference of the next image",
        unit="images",
        resamples=captions.RESAMPLES,
        settings={"tokens": "PTB without Java", "cider": "D, frequencies of these references"},
        notes=notes,
    )


def read_captions(truth: Path, split: str = "") -> list[karpathy.Captioned]:
    """Images with captions, of COCO's annotations, ALBEF's array, or a split of Karpathy's file."""
    found = official.load_json(truth)
    if isinstance(found, list):
        return albef.read(truth)
    if not isinstance(found, Mapping):
        raise WrongFile(
            f"{truth} is of type {type(found).__name__}: {official.shown(found)}. Possible: an"
            " object (COCO's annotations, Karpathy's file) or an array of images with captions"
            " (ALBEF)"
        )
    if "annotations" in found:
        return coco.read(truth)
    if not split:
        raise WrongFile(f"{truth} has several splits; say --split=test (or val, ...)")
    return karpathy.read(truth, split)


def score_classification(said: Path, truth: Path) -> Scored:
    """Classes: JSON lines against class folders, JSON lines, or `NAME LABEL` lines (val.txt).

    A prediction is a label, or a list of labels from the best one on, of which five give `top5`.
    """
    known = _labels(truth)
    answers = predictions.in_order(predictions.read(said), list(known), said)
    labels = list(known.values())
    return classification_scored(
        [[str(x) for x in (a if isinstance(a, list) else [a])] for a in answers], labels
    )


def classification_scored(lists: Sequence[Sequence[str]], labels: Sequence[str]) -> Scored:
    """The score of classes: labels from the best one on, and the true label of each example."""
    _, guessed = classification.majority(labels)
    classes = len(set(labels))
    return Scored(
        counts={"examples": len(labels), "classes": classes},
        statistics=classification.measures(lists, labels),
        chance={"accuracy": guessed, "mean_per_class": 1 / classes},
        chance_is="the most frequent class",
    )


def _labels(truth: Path) -> dict[str, str]:
    """{id: label} of an official list of labels."""
    if truth.is_dir():
        files = [p for p in sorted(truth.glob("*/**/*")) if p.is_file() and p.name[0] != "."]
        names = [path.relative_to(truth) for path in files]
        if not names:
            raise WrongFile(f"{truth} has no files in folders of classes")
        return {name.as_posix(): name.parts[0] for name in names}
    if truth.suffix != ".txt":
        found = predictions.read(truth, of=("label",))
        return {key: str(label) for key, label in found.items()}
    found = {}
    for number, line in enumerate(official.content(truth).splitlines(), start=1):
        name, _, label = line.strip().rpartition(" ")
        if not name:
            raise WrongFile(
                f"{truth}, line {number}: {line!r} is not NAME LABEL. (The list of ImageNet's"
                " devkit has ids in an order of its own; give val.txt with names of WordNet)"
            )
        found[name] = label
    return found


def _within(values: statistic.Statistic, members: np.ndarray) -> statistic.Statistic:
    """The mean over the members alone, with a row of zeros for the others."""
    rows = values.rows * members[:, None]
    return statistic.of_sums(rows, statistic.quotient, unit=values.unit)


def _file_of(task: glue_files.Task, split: str) -> str:
    """The file of a submission that predicts a split; dev is called as test is."""
    return task.files.get(split.replace("dev", "test"), next(iter(task.files.values())))


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and not math.isnan(float(value))
    except (TypeError, ValueError):
        return False


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


SCORERS: Mapping[str, Scorer] = {
    "glue": Scorer(
        score_glue,
        ("split", "name"),
        "CoLA.tsv (index, prediction), a submission's .zip, or .jsonl",
        "data/glue/CoLA/dev.tsv, or the folder and --split",
    ),
    "vqa": Scorer(
        score_vqa,
        ("version",),
        'results.json: [{"question_id", "answer"}]',
        "v2_mscoco_val2014_annotations.json",
    ),
    "nlvr2": Scorer(score_nlvr2, (), "predictions.csv: identifier,prediction", "dev.json"),
    "refcoco": Scorer(
        score_refcoco,
        ("split", "convention"),
        '.jsonl: {"sent_id", "box": [x, y, width, height]} in pixels',
        "our .jsonl, or the JSON of MDETR or TFDS",
    ),
    "caption": Scorer(
        score_captions,
        ("split",),
        'results.json: [{"image_id", "caption"}]',
        "captions_val2014.json (COCO), or dataset_coco.json and --split",
    ),
    "retrieval": Scorer(
        score_retrieval,
        ("split", "captions_per_image", "folds"),
        '.jsonl: {"id": IMAGE or IMAGE#0, "query": "image" or "caption", "prediction": [names, best'
        " first]}; or .npz: image_to_text f[I T] and text_to_image f[T I], or scores f[I T] alone",
        "dataset_coco.json and --split, ALBEF's array, .jsonl of id and text, or a run's own lines",
    ),
    "classification": Scorer(
        score_classification,
        (),
        '.jsonl: {"id", "prediction": label, or labels from the best one on}',
        'folders of classes, .jsonl: {"id", "label"}, or val.txt: NAME LABEL',
    ),
}
