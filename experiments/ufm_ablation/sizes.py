"""The numbers of the experiment, all of them; a result is kept with the numbers it came from."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

BUDGETS = ("full", "short")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large everything is. The defaults are the full budget, found as README.md says.

    Attributes:
        seeds: number of students of each arm; number s has its own initial weights and batches.
        steps, batch: of pre-training; each step takes one batch of every stream of the arm.
        lr, weight_decay: of AdamW in pre-training, after a warm-up of 5 %, with a cosine.
        width, layers, heads: of the student's encoder.
        image_size, patch_size: in pixels.
        min_side, max_side: of the drawing in an image, in pixels.
        max_len, max_masked: tokens of a passage, and how many of them are hidden at most.
        mask_rate: share of the tokens that is hidden.
        word_std, position_std, patch_position_std: of the initial embeddings. Large ones: with
            BERT's 0.02 a short run hardly gets to use the positions.
        tokenizer: the part of the demo corpus with the vocabulary.
        passages, images: how many different ones pre-training draws from.
        held_out: examples of each kind for evaluation.
        teacher_width, teacher_layers, teacher_steps, teacher_lr: of both teachers.
        top: how many of a teacher's word logits are kept.
        image_temperature, text_temperature: of distillation; alpha: its weight, 1 - alpha that of
            the labels.
        final_ratio: share of the entries that gradient masking gives away in the end.
        labelled: labelled digits for fine-tuning, drawn anew for every seed.
        tune_steps, tune_batch, tune_lr: of fine-tuning, both tasks.
    """

    seeds: int = 5
    steps: int = 1500
    batch: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.05
    width: int = 32
    layers: int = 2
    heads: int = 2
    image_size: int = 28
    patch_size: int = 7
    min_side: int = 14
    max_side: int = 26
    max_len: int = 32
    max_masked: int = 5
    mask_rate: float = 0.15
    word_std: float = 0.1
    position_std: float = 0.1
    patch_position_std: float = 0.3
    tokenizer: str = "tokenizer"
    passages: int = 96_000
    images: int = 64_000
    held_out: int = 2000
    teacher_width: int = 64
    teacher_layers: int = 3
    teacher_steps: int = 2000
    teacher_lr: float = 2e-3
    top: int = 32
    alpha: float = 0.5
    image_temperature: float = 1.0
    text_temperature: float = 2.0
    final_ratio: float = 0.5
    labelled: int = 500
    tune_steps: int = 400
    tune_batch: int = 32
    tune_lr: float = 2e-3


_SHORT = {
    **{"steps": 120, "passages": 8000, "images": 8000, "held_out": 500},
    **{"teacher_steps": 150, "tune_steps": 40},
}


def of_budget(budget: str, changes: Mapping[str, Any]) -> Sizes:
    """The sizes of a budget, with some of them changed.

    Raises:
        ValueError: another budget, or fewer seeds than a confidence interval needs.
    """
    if budget not in BUDGETS:
        raise ValueError(f"--budget is {budget!r}; possible: {', '.join(BUDGETS)}")
    sizes = Sizes(**{**(_SHORT if budget == "short" else {}), **changes})
    if sizes.seeds < 2:
        raise ValueError(f"--seeds is {sizes.seeds}; a confidence interval needs at least 2")
    return sizes


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for every entry that is not the same, with both values."""
    now = json.loads(json.dumps(now))  # as they look when they come from a file
    return [
        f"{key}: {then.get(key, 'absent')} there, {now.get(key, 'absent')} now"
        for key in sorted({*then, *now})
        if then.get(key, "absent") != now.get(key, "absent")
    ]
