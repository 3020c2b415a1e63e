"""From the predictions of a cell to a score: by kind of task, as its evaluator scores them.

A kind is what `tasks/_scoring/lines.py` reads, "glue TASK", or "retrieval", whose lines are

    {"id": 7, "prediction": {"caption": rank, "image": [ranks]}}        see `ranks`
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unified_fm import choices
from unified_fm.tasks._metrics import glue as glue_metrics
from unified_fm.tasks._metrics import retrieval
from unified_fm.tasks._scoring import lines as of_lines
from unified_fm.tasks._scoring.lines import Lines
from unified_fm.tasks._scoring.scored import Scored

_UNTOLD = ("retrieval",)  # kinds whose truth is in the prediction


def score(kind: str, lines: Sequence[Mapping[str, Any]]) -> Scored:
    """The score of the lines of one set of predictions, as JSON has them.

    Raises:
        ValueError: an unknown kind, lines of another one, or some without a truth.
    """
    scored = KINDS[choices.check("kind of predictions", kind, KINDS)]
    fields = ", ".join(lines[0]) if lines else "nothing"
    try:
        found = [of_lines.of_fields(line) for line in lines]
        if kind not in _UNTOLD and any(line.truth is None for line in found):
            raise KeyError("truth")
        return scored(found)
    except KeyError as error:
        raise ValueError(f"predictions of {kind} need {error}; a line has {fields}") from error


def ranks(image_to_text: np.ndarray, text_to_image: np.ndarray, of: Sequence[Any]) -> list[dict]:
    """Lines of a retrieval: for each image the best rank of its captions, and their images' ranks.

    Args:
        image_to_text: scores f[I T].
        text_to_image: scores f[T I].
        of: ids of the images, as often as each has captions, in the order of the captions.
    """
    ids = list(dict.fromkeys(of))
    image_of = np.array([ids.index(i) for i in of])
    best, own = retrieval.ranks(image_to_text, text_to_image, image_of)
    return [
        {"id": i, "prediction": {"caption": int(best[n]), "image": own[image_of == n].tolist()}}
        for n, i in enumerate(ids)
    ]


def _retrieval(lines: Lines) -> Scored:
    found = [line.prediction for line in lines]
    image_of = np.repeat(np.arange(len(found)), [len(each["image"]) for each in found])
    own = np.concatenate([each["image"] for each in found])
    measured = retrieval.measures(np.array([f["caption"] for f in found]), own, image_of)
    return Scored(
        counts={"images": len(found), "captions": len(image_of)},
        statistics={"mean_recall": measured.pop("mean_recall"), **measured},
        chance=retrieval.chance(len(found), image_of),
        chance_is="random order",
        unit="images",
    )


KINDS: Mapping[str, Callable[[Lines], Scored]] = {
    "vqa": of_lines.vqa,
    "nlvr2": of_lines.nlvr2,
    "refcoco": of_lines.refcoco,
    "classification": of_lines.classification,
    "captions": of_lines.captions,
    "retrieval": _retrieval,
    **{f"glue {t}": functools.partial(of_lines.glue, task=t) for t in glue_metrics.METRICS},
}
