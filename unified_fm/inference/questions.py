"""One question about many records: their fields as arguments of a method, its answers as JSON."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from unified_fm.inference.items import BadItem, check_k
from unified_fm.inference.model import Model
from unified_fm.inference.records import Record

# Task -> the fields that its items must have.
_FIELDS = {
    "match": ("image", "text"),
    "locate": ("image", "text"),
    "encode": (),
    "fill_mask": ("text",),
    "classify": (),
    "answer": ("image", "question"),
    "caption": ("image",),
}
TASKS = tuple(_FIELDS)

Answer = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of every record.

    Attributes:
        task: one of `TASKS`.
        text: of records that have none.
        labels: of `classify`.
        k: words, classes or answers of a record.
    """

    task: str
    text: str | None = None
    labels: Sequence[str] | None = None
    k: int = 5

    def __post_init__(self) -> None:
        """Raises ValueError: `k` is below 1."""
        check_k(self.k)

    @property
    def fields(self) -> Sequence[str]:
        """Those that every record must have."""
        return ("image",) if self.task == "classify" and self.labels else _FIELDS[self.task]


# Flags -> the abilities of which one will do; the tasks of fine-tuned heads first.
_FLAGS = {
    "--task=classify": ("class_head",),
    **{f"--task={task}": (task,) for task in ("answer", "caption", "match", "locate", "fill_mask")},
    "--task=classify --labels=NAME,NAME": ("similarity",),
    "--task=encode": ("encode_image", "encode_text"),
}


def possible(model: Model) -> list[str]:
    """The flags of `unified-fm predict` by which a model can be asked, the best of it first."""
    return [flags for flags, abilities in _FLAGS.items() if any(map(model.has, abilities))]


class Answers:
    """A model that answers a question about records."""

    def __init__(self, model: Model, question: Question):
        """Looks whether the model can.

        Raises:
            NotTrained: it cannot.
        """
        self._model, self._question = model, question
        for ability in _abilities(question):
            model.need(ability)

    def of(self, records: Sequence[Record]) -> list[Answer]:
        """The answer about each record, or `{"error": why}`."""
        found: list[Answer] = [{"error": record.problem} for record in records]
        groups: dict[tuple[str, ...], list[int]] = {}
        for number, record in enumerate(records):
            if record.problem:
                continue
            fields = self._fields(record)
            missing = [name for name in self._question.fields if name not in fields]
            if missing:
                found[number] = {"error": f"it has no {' and no '.join(missing)}"}
            else:
                have = tuple(name for name in ("image", "text") if name in fields)
                groups.setdefault(have, []).append(number)
        for have, members in groups.items():
            examples = {number: self._fields(records[number]) for number in members}
            found_here = self._answered(have, examples)
            for number, answer in found_here.items():
                found[number] = answer
        return found

    def _fields(self, record: Record) -> dict[str, Any]:
        given = {} if self._question.text is None else {"text": self._question.text}
        fields = {**given, **record.fields}
        if "text" in fields:
            fields.setdefault("question", fields["text"])
        return fields

    def _answered(self, have: tuple[str, ...], examples: dict[int, dict[str, Any]]):
        """Answers by number; those that cannot be used are left out one by one."""
        found: dict[int, Answer] = {}
        left = dict(examples)
        while left:
            try:
                answers = _ASK[self._question.task](
                    self._model, self._question, have, [*left.values()]
                )
                return found | dict(zip(left, answers, strict=True))
            except BadItem as bad:
                number = [*left][bad.index]
                found[number] = {"error": f"{bad.what}: {bad.reason}"}
                del left[number]
        return found


def _abilities(question: Question) -> tuple[str, ...]:
    if question.task == "classify":
        return ("similarity",) if question.labels else ("class_head",)
    return () if question.task == "encode" else (question.task,)


def _column(examples: Sequence[dict[str, Any]], name: str) -> list[Any]:
    return [example[name] for example in examples]


def _match(model, question, have, examples) -> list[Answer]:
    shares = model.match(_column(examples, "image"), _column(examples, "text"))
    return [{"probability": float(x)} for x in shares]


def _locate(model, question, have, examples) -> list[Answer]:
    boxes = model.locate(_column(examples, "image"), _column(examples, "text"))
    return [{"box": [*box[:4]], "score": _number(box.score)} for box in boxes]


def _encode(model, question, have, examples) -> list[Answer]:
    if not have:
        return [{"error": "it has no image and no text"} for _ in examples]
    found: list[Answer] = [{} for _ in examples]
    for name in have:
        encode = model.encode_image if name == "image" else model.encode_text
        project = "similarity" in model.tasks
        for answer, feature in zip(
            found, encode(_column(examples, name), project=project), strict=True
        ):
            answer[name] = [float(x) for x in feature]
    return found


def _fill_mask(model, question, have, examples) -> list[Answer]:
    images = _column(examples, "image") if "image" in have else None
    words = model.fill_mask(_column(examples, "text"), images, k=question.k)
    return [{"masks": own} for own in words]


def _classify(model, question, have, examples) -> list[Answer]:
    items = _column(examples, "image") if question.labels else list(examples)
    classes = model.classify(items, question.labels)
    return [{"classes": own[: question.k]} for own in classes]


def _answer(model, question, have, examples) -> list[Answer]:
    given = _column(examples, "image"), _column(examples, "question")
    return [{"answers": own} for own in model.answer(*given, k=question.k)]


def _caption(model, question, have, examples) -> list[Answer]:
    return [{"caption": text} for text in model.caption(_column(examples, "image"))]


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if value != value else value


_ASK: dict[str, Callable[..., list[Answer]]] = {
    "match": _match,
    "locate": _locate,
    "encode": _encode,
    "fill_mask": _fill_mask,
    "classify": _classify,
    "answer": _answer,
    "caption": _caption,
}
