"""Sentences of the outcome, each below the rule that makes it."""

from collections.abc import Iterable, Mapping
from typing import Any

from experiments.statistics import Interval, interval
from experiments.ufm_ablation.conclusions import (
    FULL,
    LOOKS,
    LOSSES,
    OTHER,
    SEPARATE,
    Scores,
    allowed,
    decision,
    deficit,
    masking,
    paid,
    rejected,
    repaired,
    same,
)

# What stands above a sentence, in the words of the rules.
QUOTES = {
    "deficit": (
        "If H1 is not rejected on a stream, its R is not reported: there is nothing to repair."
    ),
    "decision": (
        "*Confirmed* on a stream if R of joint_kd_igm has a lower bound >= .5 and the other "
        "stream's CI excludes a loss > 20 % of its joint deficit (or > .05 nats where there is "
        "none). *Refuted* if the upper bound is < .5. Else undecided."
    ),
    "masking": (
        '"Gradient masking confirmed" needs a gain over joint_static **and** H5 better; a gain '
        'with H5 equivalent = "partition helps, selection does not".'
    ),
    "H5": ("better if CI < 0, **equivalent if the 90 % CI lies within +-20 % of the deficit**."),
    "H4": (
        "H4 (joint_kd - joint) - (bert_kd - bert_only) < 0 (KD repairs *sharing*, not merely "
        "teaches)."
    ),
    "look": (
        "One look at 8; extend once to 16 if any primary CI contains both 0 and half the deficit "
        "(alpha .025 per look)."
    ),
    "probes": "A downstream metric counts only if separate - scratch >= 3 SD on gate seeds.",
    "gate": 'A stream that passes nowhere is reported "not testable here".',
    "void": "A non-finite loss voids the arm, reported",
}


def quote(name: str) -> str:
    """A rule, as a quotation of Markdown."""
    return f"> {QUOTES[name]}"


def decisions(scores: Scores) -> Iterable[str]:
    """Lines of what is decided at the last look, each below its rule."""
    second = scores.seeds == LOOKS[1]
    yield from (quote("look"), "")
    yield "This is the second look." if second else "That is so of none: this look is the last."
    yield ""
    if not all(scores.testable(stream) for stream in LOSSES):
        yield from (quote("gate"), "", tried(scores.gate), "")
    yield from (quote("decision"), "")
    yield from (
        f"- {stream}: **{decision(scores, stream)}**{_why(scores, stream)}." for stream in LOSSES
    )
    yield from ("", quote("H4"), "")
    yield f"- H4: {_taught(scores)}."
    yield from ("", quote("H5"), "")
    yield f"- H5: **{same(scores) or 'neither is shown'}**."
    yield from ("", quote("masking"), "")
    yield f"- Gradient masking: **{masking(scores)}**."


def _why(scores: Scores, stream: str) -> str:
    """What the decision on a stream looks at, "" where there is nothing to decide."""
    other = OTHER[stream]
    part, cost = repaired(scores, stream, FULL), paid(scores, other, FULL)
    if not scores.testable(stream) or part is None or cost is None:
        return ""
    return (
        f": R of `{FULL}` is {_percent(part)}, and on the {other} stream it loses {nats(cost)}"
        f" nats against `joint`, where more than {allowed(scores, other):.3f} has to be excluded"
    )


def _taught(scores: Scores) -> str:
    """Whether a teacher helps the joint model by more than one that shares nothing."""
    values = scores.of_contrast("H4")
    if len(values) < 2:
        return "cannot be said: an arm was not run, or is void"
    said = "**not shown**"
    if "H4" in rejected(scores):
        said = "**KD repairs sharing**"
    elif interval(values).low > 0:
        said = "**the other way round**"
    gains = (
        interval(scores.values("text", {f"{arm}_kd": 1, plain: -1}))
        for arm, plain in (("joint", "joint"), ("bert", "bert_only"))
    )
    together, alone = map(nats, gains)
    return f"{said}: a teacher changes the loss of `joint` by {together}, of `bert_only` by {alone}"


def outcomes(scores: Scores) -> dict[str, str]:
    """{what is claimed: what came out}, as docs/claims.md says it; at the last look."""
    helps, sure = scores.of_contrast("H3"), rejected(scores)
    teachers = f"H3 **{'holds' if 'H3' in sure else 'is not shown'}**: {nats(interval(helps))} nats"
    beside = ", ".join(
        f"`{arm}` {_percent(part)}"
        for arm in ("joint_igm", "joint_igm_random", "joint_static")
        if (part := repaired(scores, "text", arm))
    )
    adam = repaired(scores, "text", "joint_per_task_adam")
    kept = "H6" in sure and adam is not None
    return {
        "teachers": f"on words {teachers}. H4: {_taught(scores)}",
        "masks": f"**{masking(scores)}**: of what `joint` loses on words, {beside} repaired",
        "both": "; ".join(
            f"{stream}: **{decision(scores, stream)}**{_why(scores, stream)}"
            for stream in ("text", "image")
        ),
        "adam": f"repairs {_percent(adam)} on words (Holm)" if kept else "no gain shown",
    }


def repairs(scores: Scores, stream: str) -> Iterable[str]:
    """What `joint` loses on a stream, how much of it each arm repairs, and at what cost."""
    whole = deficit(scores, stream)
    if why := scores.absent(stream, "joint", SEPARATE[stream]):
        yield f"{stream}: cannot be said: {why}"
        return
    if whole is None:
        yield f"{stream}: `joint` is not shown to lose against `{SEPARATE[stream]}`"
        return
    yield f"{stream}: `joint` loses {nats(whole)} nats against `{SEPARATE[stream]}`"
    for arm in scores.arms:
        if arm.startswith("joint_") and (part := repaired(scores, stream, arm)):
            cost = paid(scores, OTHER[stream], arm)
            beside = f"; on the {OTHER[stream]} stream {nats(cost)} nats to `joint`" if cost else ""
            yield f"{stream}: `{arm}` repairs {_percent(part)}{beside}"


def tried(gate: Mapping[str, Any]) -> str:
    """How far the gate went, and which streams pass at any of the sizes that it tried."""
    tried, of = gate.get("candidates", []), gate.get("of", 0)
    anywhere = [s for s in LOSSES if any(each["passes"][s] for each in tried)]
    rest = f"; the {of - len(tried)} others, which cost more, were not" if of > len(tried) else ""
    return (
        f"Sizes and lengths tried: {len(tried)} of {of}{rest}. Passing at any of them: "
        f"{', '.join(anywhere) or 'neither stream'}."
    )


def _percent(part: Interval) -> str:
    return f"{100 * part.mean:.0f} % [{100 * part.low:+.0f}, {100 * part.high:+.0f}]"


def nats(found: Interval) -> str:
    """A mean with its interval."""
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
