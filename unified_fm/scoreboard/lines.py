"""From predictions to a score: what the evaluators of tasks write, read back by kind of task.

    {"id": 17, "prediction": "yes", "truth": ["yes", ...], "answer_type": "yes/no", "image_id": 3}

| kind | prediction | truth, and further fields |
| --- | --- | --- |
| vqa | an answer | the annotators' answers; `answer_type`, `image_id` |
| nlvr2 | "True" or "False" | alike; `id` is the identifier |
| refcoco | x, y, width, height | alike; `size`, `split`, `image_id` |
| classification | a label, or several, best first | a label |
| regression | a number | a number |
| captions | a caption | captions |
| retrieval | names of candidates, best first | of matches; see `rankings` |
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unified_fm import choices
from unified_fm.tasks._metrics import captions, retrieval
from unified_fm.tasks._scoring import rankings, scorers
from unified_fm.tasks._scoring.scored import Scored

Lines = Sequence[Mapping[str, Any]]


def score(kind: str, lines: Lines) -> Scored:
    """The score of the lines of one set of predictions.

    Raises:
        ValueError: an unknown kind, or lines of another one.
    """
    try:
        return KINDS[choices.check("kind of predictions", kind, KINDS)](lines)
    except KeyError as error:
        fields = ", ".join(lines[0]) if lines else "nothing"
        raise ValueError(f"predictions of {kind} need {error}; a line has {fields}") from error


def rankings_of(scores: np.ndarray, ids: Sequence[Any], captions: Sequence[int]) -> list[dict]:
    """Lines of a retrieval, those of the images first, as the evaluator writes them.

    Args:
        scores: f[I T], of both directions.
        ids: of the images.
        captions: how many each has.
    """
    called = rankings.names(ids, captions)
    own = [[f"{i}#{n}" for n in range(k)] for i, k in zip(called.images, captions, strict=True)]
    image_of = np.repeat(np.arange(len(ids)), captions)
    owners = [[called.images[i]] for i in image_of]
    found: list[dict] = []
    listed = rankings.LISTED
    for query, (queries, candidates), x, truth in (
        ("image", called, scores, own),
        ("caption", called[::-1], scores.T, owners),
    ):
        best = retrieval.top(x, listed + 1)
        ranking = rankings.Ranking(best, np.take_along_axis(x, best, axis=1))
        found += rankings.as_lines(query, queries, candidates, ranking, truth, listed)
    return found


def _vqa(lines: Lines) -> Scored:
    return scorers.vqa_scored(
        [line["prediction"] or "" for line in lines],
        [line["truth"] for line in lines],
        [line.get("answer_type", "") for line in lines],
        [str(line.get("image_id", line["id"])) for line in lines],
    )


def _nlvr2(lines: Lines) -> Scored:
    # What is not finite is answered with the other word: it must not be right by chance.
    other = {"True": "False", "False": "True"}
    answers = [line["prediction"] or other[line["truth"]] for line in lines]
    return scorers.nlvr2_scored(
        answers, [line["truth"] for line in lines], [line["id"] for line in lines]
    )


def _refcoco(lines: Lines) -> Scored:
    return scorers.refcoco_scored(
        np.array([line["prediction"] or [0.0] * 4 for line in lines], np.float64),
        np.array([line["truth"] for line in lines], np.float64),
        np.array([line["size"] for line in lines]),
        [str(line["split"]) for line in lines],
        [str(line["image_id"]) for line in lines],
    )


def _classification(lines: Lines) -> Scored:
    said = [line["prediction"] for line in lines]
    lists = [[str(x) for x in (one if isinstance(one, list) else [one])] for one in said]
    return scorers.classification_scored(lists, [str(line["truth"]) for line in lines])


def _regression(lines: Lines) -> Scored:
    said = [float("nan") if line["prediction"] is None else line["prediction"] for line in lines]
    return scorers.glue_scored("stsb", said, [float(line["truth"]) for line in lines])


def _captions(lines: Lines) -> Scored:
    texts = [line["truth"] for line in lines]
    return Scored(
        counts={"images": len(lines), "references": sum(map(len, texts))},
        statistics=captions.measures([line["prediction"] for line in lines], texts),
        chance=captions.chance(texts),
        chance_is="a reference of the next image",
        unit="images",
        resamples=captions.RESAMPLES,
    )


KINDS: Mapping[str, Callable[[Lines], Scored]] = {
    "vqa": _vqa,
    "nlvr2": _nlvr2,
    "refcoco": _refcoco,
    "classification": _classification,
    "regression": _regression,
    "captions": _captions,
    "retrieval": rankings.measured,
}
