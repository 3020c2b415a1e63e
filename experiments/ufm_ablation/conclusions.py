"""Sentences from numbers, by rule: who is better by how much, and where the claim fails.

A difference counts only if the 95 % interval of the paired differences excludes 0. "Better" is the
direction of the metric: a lower loss, a higher accuracy.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from experiments.ufm_ablation.statistics import Interval, paired

Scores = Mapping[str, Mapping[str, Sequence[float]]]  # {arm: {metric: one number for each seed}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A column of the table.

    Attributes:
        title: for people.
        better: "lower" or "higher".
        stream: "image" or "text", whose task it is.
        unit: "" for nats, "%" for shares.
        separate: the arm trained on this stream alone.
    """

    title: str
    better: str
    stream: str
    unit: str
    separate: str


METRICS: Mapping[str, Metric] = {
    "image_loss": Metric(
        title="image cross-entropy", better="lower", stream="image", unit="", separate="vit_only"
    ),
    "text_loss": Metric(
        title="masked-word cross-entropy",
        **dict(better="lower", stream="text", unit="", separate="bert_only"),
    ),
    "digits": Metric(
        title="digits, fine-tuned", better="higher", stream="image", unit="%", separate="vit_only"
    ),
    "sentiment": Metric(
        title="sentiment, fine-tuned", **dict(better="higher", stream="text", unit="%"),
        separate="bert_only",
    ),
}  # fmt: skip
PRETRAINING = ("image_loss", "text_loss")
FULL = "joint_kd_igm"  # the paper's method: teachers and masks
_CLAIM = (
    "The claim: distillation and gradient masking lift joint training to the level of separate "
    "training (arXiv 2112.07074; every rule and number here is our choice)."
)


def verdict(difference: Interval, better: str) -> str:
    """ "better", "worse", or "none" where 0 is in the interval."""
    if not difference.excludes_zero:
        return "none"
    return "better" if (difference.mean > 0) == (better == "higher") else "worse"


def sentence(arm: str, reference: str, key: str, scores: Scores) -> str:
    """One comparison: "`a` is better than `b` by 0.10 [0.05, 0.15] on ..."."""
    metric = METRICS[key]
    difference = paired(scores[arm][key], scores[reference][key])
    found, seeds = verdict(difference, metric.better), len(scores[arm][key])
    if found == "none":
        return (
            f"{metric.title}: no difference between `{arm}` and `{reference}` that {seeds} seeds "
            f"can show ({number(difference.mean, metric)} {ends(difference, metric)})"
        )
    return (
        f"{metric.title}: `{arm}` is {found} than `{reference}` by "
        f"{number(abs(difference.mean), metric, sign=False)} {ends(difference, metric)}"
    )


def write(scores: Scores) -> str:
    """The conclusions as Markdown, from the scores of all arms."""
    parts = ["# Conclusions", "", _how_to_read(scores), ""]
    for title, comparisons in _QUESTIONS.items():
        parts += [f"## {title}", ""]
        parts += [
            f"- {sentence(arm, reference, key, scores)}."
            for arm, reference in comparisons
            for key in METRICS
            if key in scores[arm] and key in scores[reference]
        ]
        parts.append("")
    parts += ["## Does the claim hold here?", "", _CLAIM, ""]
    parts += [f"- {claim(key, scores)}" for key in METRICS]
    return "\n".join([*parts, ""])


def claim(key: str, scores: Scores) -> str:
    """Whether `joint_kd_igm` reaches the separate arm on one metric, where `joint` does not."""
    metric = METRICS[key]
    separate = metric.separate
    loss = paired(scores["joint"][key], scores[separate][key])
    full = paired(scores[FULL][key], scores[separate][key])
    lift = verdict(paired(scores[FULL][key], scores["joint"][key]), metric.better)
    before, after = verdict(loss, metric.better), verdict(full, metric.better)
    against = f"{number(full.mean, metric)} {ends(full, metric)} against `{separate}`"
    lifted = {
        "better": f"`{FULL}` is better than `joint`",
        "none": f"`{FULL}` is not measurably different from `joint`",
        "worse": f"`{FULL}` is worse than `joint`",
    }[lift]
    if before != "worse":
        start = "nothing to repair: the joint sum does not measurably lose against it"
        return f"{metric.title}: {start}; {lifted}, {against}."
    if after == "worse":
        loses = "but still loses" if lift == "better" else "and loses"
        return f"{metric.title}: **the claim fails**: {lifted}, {loses}: {against}."
    if lift != "better":
        return f"{metric.title}: **undecided**: {lifted}, and {against}."
    if after == "better":
        return f"{metric.title}: **the claim holds, and more**: {lifted}; {against}."
    seeds = len(scores["joint"][key])
    left = f"no difference remains that {seeds} seeds can show"
    return f"{metric.title}: **the claim holds**: {lifted}, and {left}: {against}."


def number(value: float, metric: Metric, *, sign: bool = True) -> str:
    """A score or a difference in the metric's unit."""
    text = f"{100 * value:.2f} points" if metric.unit == "%" else f"{value:.4f}"
    return f"{'+' if sign and value >= 0 else ''}{text}"


def ends(difference: Interval, metric: Metric) -> str:
    """ "[low, high]" in the metric's unit."""
    scale, digits = (100, 2) if metric.unit == "%" else (1, 4)
    return f"[{scale * difference.low:+.{digits}f}, {scale * difference.high:+.{digits}f}]"


def _how_to_read(scores: Scores) -> str:
    seeds = len(next(iter(scores["joint"].values())))
    count = len(METRICS) * sum(len(pairs) for pairs in _QUESTIONS.values())
    return (
        "Written by rule from `results.json`. A difference counts if the 95 % interval (t, "
        f"{seeds} seeds, paired) excludes 0; of {count} comparisons without any true difference "
        f"about {max(1, round(0.05 * count))} would. The intervals are over the seeds (initial "
        "weights, batches, labelled digits), not over test sets. In brackets: the interval of "
        "the first minus the second."
    )


_QUESTIONS: Mapping[str, Sequence[tuple[str, str]]] = {
    "Does joint training lose against separate training?": [
        ("joint", "vit_only"),
        ("joint", "bert_only"),
    ],
    "Does distillation help?": [("joint_kd", "joint"), ("joint_kd_igm", "joint_igm")],
    "Does gradient masking help?": [("joint_igm", "joint"), ("joint_kd_igm", "joint_kd")],
    "Is it which entries are given away, and to whom?": [
        ("joint_igm", "joint_igm_random"),
        ("joint_igm", "joint_igm_swapped"),
    ],
    "Is it better than simpler merges?": [
        ("joint_igm", "joint_pcgrad"),
        ("joint_igm", "joint_static_image"),
        ("joint_igm", "joint_static_text"),
    ],
    "Does pre-training help the fine-tuned tasks at all?": [("joint", "scratch")],
}
