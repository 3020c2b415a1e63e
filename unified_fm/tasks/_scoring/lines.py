"""Predictions beside their truth: lines as evaluators write them, read back and scored.

    {"id": 17, "prediction": "yes", "truth": ["yes", ...], "answer_type": "yes/no", "image_id": 3}

| scored as | prediction | truth, and further fields |
| --- | --- | --- |
| vqa | an answer | the annotators' answers; `answer_type`, the image |
| nlvr2 | "True" or "False" | alike; `id` is the identifier |
| refcoco | x, y, width, height | alike; `size`, `split` where there is one, the image |
| classification | a label, or several, best first | a label |
| glue | a label as the task's files spell it, or a number | alike |
| captions | a caption | captions |

Intervals are over images, told by `image_id`, or by `image`: a path, or a hash of the content.
A prediction of None, or of no label at all, was not finite: it is wrong, never right by chance.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from unified_fm.data import identity
from unified_fm.data.glue_files import TASKS
from unified_fm.data.sources.nlvr2 import LABELS
from unified_fm.tasks._scoring import scorers
from unified_fm.tasks._scoring.scored import Scored


class Line(NamedTuple):
    """One example as it is written, and read back.

    Attributes:
        id: of the record.
        prediction: what the model says, as the task's scorer takes it; None: nothing finite.
        truth: what it is compared with; None: the source does not say.
        more: further fields of the line.
    """

    id: Any
    prediction: Any
    truth: Any = None
    more: Mapping[str, Any] = MappingProxyType({})


Lines = Sequence[Line]


def to_json(line: Line) -> str:
    """A line, without its end."""
    fields = {"id": line.id, "prediction": line.prediction, **line.more}
    if line.truth is not None:
        fields["truth"] = line.truth
    return json.dumps(fields, ensure_ascii=False)


def of_fields(fields: Mapping[str, Any]) -> Line:
    """A line of the object that stands in it. Raises KeyError: no id or no prediction."""
    rest = dict(fields)
    return Line(rest.pop("id"), rest.pop("prediction"), rest.pop("truth", None), rest)


def of_text(text: str) -> list[dict[str, Any]]:
    """The objects of a file of lines."""
    # Not by `splitlines`: a caption may hold U+2028, which is no end of a line in JSON.
    return [json.loads(line) for line in text.split("\n") if line]


def image_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The field of a line that tells which image a record is about; none where it has no image.

    `image_id` where the record has one, else `image`: its path, or a hash of its content.
    """
    if record.get("image_id") is not None:
        return {"image_id": record["image_id"]}
    image = record.get("image")
    if image is None or isinstance(image, str | os.PathLike):
        return {} if image is None else {"image": os.fspath(image)}
    return {"image": hashlib.sha256(identity.bytes_of("image", image)).hexdigest()[:16]}


def vqa(lines: Lines, version: str = "2021") -> Scored:
    """The official accuracy; intervals are over images."""
    return scorers.vqa_scored(
        [line.prediction or "" for line in lines],
        [line.truth for line in lines],
        [line.more.get("answer_type", "") for line in lines],
        list(map(_image, lines)),
        version,
    )


def nlvr2(lines: Lines) -> Scored:
    """By the published metrics; without published identifiers each pair is its own sentence."""
    names = [str(line.id) for line in lines]
    if any(len(name.split("-")) != 4 for name in names):
        names = [f"x-{number}-0-0" for number in range(len(names))]
    return scorers.nlvr2_scored(_answered(lines, LABELS), [line.truth for line in lines], names)


def refcoco(lines: Lines, convention: str = "continuous") -> Scored:
    """By split, where there are any; what is not finite is a box without a size.

    Raises:
        KeyError: `size` is missing.
    """
    return scorers.refcoco_scored(
        np.array([line.prediction or [0.0] * 4 for line in lines], np.float64),
        np.array([line.truth for line in lines], np.float64),
        np.array([line.more["size"] for line in lines]),
        [str(line.more.get("split") or "") for line in lines],
        list(map(_image, lines)),
        convention,
    )


def classification(lines: Lines) -> Scored:
    """As `unified-fm score --task=classification`."""
    return scorers.classification_scored(
        [_labels(line.prediction) for line in lines], [str(line.truth) for line in lines]
    )


def glue(lines: Lines, task: str) -> Scored:
    """By the metrics of a GLUE task ("cola")."""
    words = TASKS[task].words
    if words:
        return scorers.glue_scored(task, _answered(lines, words), [line.truth for line in lines])
    said = [float("nan") if line.prediction is None else line.prediction for line in lines]
    return scorers.glue_scored(task, said, [float(line.truth) for line in lines])


def captions(lines: Lines) -> Scored:
    """With the frequencies of these references."""
    return scorers.captions_scored(
        [line.prediction for line in lines], [line.truth for line in lines]
    )


def _image(line: Line) -> str:
    """The unit that an example is drawn with."""
    fields = (line.more.get(name) for name in ("image_id", "image"))
    return str(next((found for found in fields if found is not None), line.id))


def _answered(lines: Lines, words: Sequence[str]) -> list[str]:
    """The predictions; where there is none, a label that is wrong: no label is none, either."""
    other = dict(zip(words, [*words[1:], words[0]], strict=True))
    return [other[line.truth] if line.prediction is None else line.prediction for line in lines]


def _labels(said: Any) -> list[str]:
    if said is None:
        return []
    return [str(label) for label in (said if isinstance(said, list) else [said])]
