"""Answers to questions, and captions: chosen from a list, or written by a decoder."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from unified_fm import choices
from unified_fm.inference import heads
from unified_fm.inference.abilities import NotTrained
from unified_fm.inference.items import Items, check_k, paired
from unified_fm.inference.parts import Head, Parts

OPEN = "open"


def answers(
    parts: Parts,
    images: Items,
    questions: Items,
    *,
    choose: Sequence[str] | str | None,
    k: int,
    on_error: str,
) -> list[list[tuple[str, float]] | None]:
    """(answer, probability) of the k best answers to each question; see `Model.answer`.

    Raises:
        ValueError: answers that the checkpoint cannot give; `k` below 1.
        NotTrained: it cannot write any.
    """
    check_k(k)
    if isinstance(choose, str) and choose != OPEN:
        raise ValueError(f"answers is a list, {OPEN!r} or None, found {choose!r}")
    head = parts.head("answer")
    pairs = paired(images, questions)
    asked = [(images.values[i], questions.values[q]) for i, q in pairs]
    items = Items("questions", asked, False)
    if head.writes:
        return _written_answers(parts, head, items, choose, k, on_error)
    if choose == OPEN:
        raise NotTrained(
            "this checkpoint chooses from a list of answers and writes none; train with "
            "configs/finetune/vqa_generation.py"
        )
    names = _chosen(head, choose)
    found = heads.predictions(parts, head, items, on_error)
    return [None if x is None else _best(head, names, _sigmoid(x["logits"]), k) for x in found]


def _written_answers(parts, head, items, choose, k, on_error):
    if choose is None and not head.names:
        choose = OPEN
    if choose == OPEN:
        # Without a penalty the score of a text is the logarithm of its probability.
        found = _written(parts, head, items, {"length_penalty": 0.0}, on_error)
        return [None if x is None else [(x[0], float(np.exp(x[1])))] for x in found]
    listed = tuple(head.names if choose is None else choose)
    if not listed:
        raise ValueError("answers is an empty list")
    found = heads.predictions(
        parts,
        head,
        items,
        on_error,
        change=lambda objective: objective.with_answers(listed),
        key=("answers", listed),
    )
    named = dataclasses.replace(head, names=listed)
    every = range(len(listed))
    return [None if x is None else _best(named, every, np.exp(x["ranked"]), k) for x in found]


def captions(parts: Parts, images: Items, how: dict[str, Any], on_error: str) -> list[str | None]:
    """A sentence about each image; `how` are options of the objective.

    Raises:
        ValueError: an option that cannot be.
    """
    found = _written(parts, parts.head("caption"), images, how, on_error)
    return [None if x is None else x[0] for x in found]


def _written(parts: Parts, head: Head, items: Items, how: dict[str, Any], on_error: str):
    """(text, score) that the decoder writes about each item."""
    found = heads.predictions(
        parts,
        head,
        items,
        on_error,
        change=lambda objective: dataclasses.replace(objective, **how),
        key=tuple(sorted(how.items())),
    )
    return [None if x is None else (_text(parts, x["ids"]), float(x["score"])) for x in found]


def _text(parts: Parts, ids: np.ndarray) -> str:
    """The words of new tokens i32[L], up to the end."""
    tokenizer: Any = parts.tokenizer  # whoever has a decoder has one
    end = np.flatnonzero(ids == tokenizer.sep_id)
    return tokenizer.decode(ids[: end[0]] if len(end) else ids).strip()


def _chosen(head: Head, choose: Sequence[str] | None) -> list[int]:
    """The numbers of the answers to choose from.

    Raises:
        ValueError: an answer that is not in the list of the checkpoint.
    """
    if choose is None:
        return list(range(len(head.names)))
    known = {name: number for number, name in enumerate(head.names)}
    for answer in choose:
        if answer not in known:
            near = choices.nearest(answer, known)
            hint = f"; did you mean {near!r}?" if near else ""
            raise ValueError(
                f"answers: {answer!r} is none of the {len(known):,} that this checkpoint chooses "
                f"from{hint}"
            )
    return [known[answer] for answer in choose]


def _best(head: Head, numbers: Sequence[int], shares: np.ndarray, k: int):
    own = shares[list(numbers)]
    order = np.argsort(-own, kind="stable")[:k]
    return [(head.named(numbers[n]), float(own[n])) for n in order]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))
