"""Sentences from numbers, by rule: who is better by how much, and whether the claim holds.

A difference counts only if the 95 % interval of the paired differences excludes 0. "Better" is the
direction of the metric: a lower loss, a higher accuracy. The claim is that the full method comes
*close* to separate training, so it is judged by the share of the loss that is repaired; that a rest
can be measured is no failure.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.ufm_ablation.statistics import Interval, holm, p_value, paired, share

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
TAUGHT = ("joint_kd", FULL)  # the arms with teachers
CLOSE = 0.5  # the share of what joint training loses that has to be repaired
_CLAIM = (
    "The claim: distillation and gradient masking lift joint training to *approach* separate "
    "training (arXiv 2112.07074; every rule and number here is our choice). With R the share of "
    f"what `joint` loses against separate training that `{FULL}` repairs, it holds where the 95 % "
    f"interval of R (Fieller, paired seeds) lies above {100 * CLOSE:.0f} %, fails where it lies "
    "below, and is undecided between. A difference that remains is no failure by itself."
)
_BIASED = "the teacher was a biased target"


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


def write(scores: Scores, biased: Sequence[str] = ()) -> str:
    """The conclusions as Markdown.

    Args:
        scores: of all arms.
        biased: streams ("image", "text") whose teacher was a biased target; of them nothing is
            concluded about distillation.
    """
    listed = comparisons(scores)
    tests = [p_value(scores[arm][key], scores[other][key]) for _, arm, other, key in listed]
    survives = holm(tests)
    parts = ["# Conclusions", "", _how_to_read(scores, tests, survives), ""]
    if biased:
        parts += [_about_bias(biased), ""]
    for title in _QUESTIONS:
        parts += [f"## {title}", ""]
        for (of, arm, other, key), sure in zip(listed, survives, strict=True):
            if of == title:
                marks = [" (Holm)"] * sure + [_bias(arm, other, key, biased)]
                parts.append(f"- {sentence(arm, other, key, scores)}{''.join(marks)}.")
        parts.append("")
    parts += ["## How much of what `joint` loses is repaired?", ""]
    parts += ["The share of `joint` minus separate, and its 95 % interval (Fieller).", ""]
    parts += [f"- {line}" for key in METRICS for line in repairs(key, scores, biased)]
    parts += ["", "## Does the claim hold here?", "", _CLAIM, ""]
    parts += [f"- {claim(key, scores, biased)}" for key in METRICS]
    return "\n".join([*parts, ""])


def comparisons(scores: Scores) -> list[tuple[str, str, str, str]]:
    """(question, arm, reference, metric) of every sentence."""
    return [
        (title, arm, reference, key)
        for title, pairs in _QUESTIONS.items()
        for arm, reference in pairs
        for key in METRICS
        if key in scores[arm] and key in scores[reference]
    ]


def repaired(arm: str, key: str, scores: Scores) -> Interval | None:
    """The share of what `joint` loses against separate training that an arm repairs.

    Returns:
        None where `joint` does not measurably lose.
    """
    joint, separate = (np.array(scores[a][key]) for a in ("joint", METRICS[key].separate))
    if verdict(paired(joint, separate), METRICS[key].better) != "worse":
        return None
    return share(joint - np.array(scores[arm][key]), joint - separate)


def repairs(key: str, scores: Scores, biased: Sequence[str] = ()) -> list[str]:
    """One sentence for every joint arm, or that there is nothing to repair."""
    metric, found = METRICS[key], []
    for arm in scores:
        if arm.startswith("joint_") and key in scores[arm]:
            part = repaired(arm, key, scores)
            if part is None:
                return [f"{metric.title}: {_nothing(metric)}."]
            found.append(f"{metric.title}: `{arm}` {shares(part)}{_bias(arm, '', key, biased)}.")
    return found


def claim(key: str, scores: Scores, biased: Sequence[str] = ()) -> str:
    """Whether `joint_kd_igm` comes close to the separate arm on one metric, where `joint` fails."""
    metric = METRICS[key]
    full = paired(scores[FULL][key], scores[metric.separate][key])
    against = f"{number(full.mean, metric)} {ends(full, metric)} against `{metric.separate}`"
    left = {
        "better": "it is better than separate training",
        "none": f"no difference remains that {len(scores['joint'][key])} seeds can show",
        "worse": "a difference remains",
    }[verdict(full, metric.better)]
    part = repaired(FULL, key, scores)
    if part is None:
        return f"{metric.title}: {_nothing(metric)}; `{FULL}`: {left}, {against}."
    if metric.stream in biased:
        return f"{metric.title}: **not judged**: {_BIASED}. `{FULL}`: {left}, {against}."
    found = "holds" if part.low >= CLOSE else "fails" if part.high < CLOSE else ""
    words = f"the claim {found}" if found else "undecided"
    return f"{metric.title}: **{words}**: `{FULL}` {shares(part)}; {left}, {against}."


def shares(part: Interval) -> str:
    """ "repairs 42 % [31 %, 53 %]"."""
    return f"repairs {100 * part.mean:.0f} % [{100 * part.low:+.0f}, {100 * part.high:+.0f}]"


def number(value: float, metric: Metric, *, sign: bool = True) -> str:
    """A score or a difference in the metric's unit."""
    text = f"{100 * value:.2f} points" if metric.unit == "%" else f"{value:.4f}"
    return f"{'+' if sign and value >= 0 else ''}{text}"


def ends(difference: Interval, metric: Metric) -> str:
    """ "[low, high]" in the metric's unit."""
    scale, digits = (100, 2) if metric.unit == "%" else (1, 4)
    return f"[{scale * difference.low:+.{digits}f}, {scale * difference.high:+.{digits}f}]"


def _how_to_read(scores: Scores, tests: Sequence[float], survives: Sequence[bool]) -> str:
    seeds, count = len(next(iter(scores["joint"].values()))), len(tests)
    return (
        "Written by rule from `results.json`. A difference counts if the 95 % interval (t, "
        f"{seeds} seeds, paired) excludes 0. Of {count} comparisons without any true difference "
        f"about {max(1, round(0.05 * count))} would; {sum(p < 0.05 for p in tests)} do, and "
        f"{sum(survives)} also survive Holm's correction over all {count}: they are marked (Holm). "
        "The intervals are over the seeds (initial weights, batches, labelled digits), not over "
        "test sets. In brackets: the interval of the first minus the second."
    )


def _about_bias(biased: Sequence[str]) -> str:
    return (
        f"**In the arms with teachers the target was biased ({', '.join(biased)}):** the cache "
        "gave all words beyond the teacher's best ones the same probability. What follows about "
        "these arms on that stream says nothing about distillation, and is marked; the shared "
        "encoder carries the bias to the other stream too."
    )


def _bias(arm: str, other: str, key: str, biased: Sequence[str]) -> str:
    taught = [a for a in (arm, other) if a in TAUGHT]
    return f" ({_BIASED})" if taught and METRICS[key].stream in biased else ""


def _nothing(metric: Metric) -> str:
    return f"nothing to repair: the joint sum does not measurably lose against `{metric.separate}`"


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
