"""From the endpoints to sentences, each by its rule. Differences are seed by seed."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from experiments.statistics import Interval, holm, interval, p_value
from experiments.xfm_ablation.endpoints import TOPICS, VISION, VL, WORDS, Endpoints

SHARE, SMALL_GAP, NATS = 0.2, 0.1, 0.02  # of A1's margin
SDS = 0.5  # the cost of A3
POINT = 1.0  # of B's refutation, and of C
RULES = {
    "A1": "A1 full - text_only non-inferior: upper CI < 20 % of (no_stop - text_only), or < .02 "
    "nats if that gap is < .1.",
    "A2": "A2 full - no_stop < 0 on MLM.",
    "A3": "A3 VL composite full - no_stop: cost < .5 SD.",
    "(a)": "Said in advance: (a) is confirmed by A1 and A2 together, and refuted where the whole "
    "interval of A1 is above its margin; A3 says at what cost.",
    "B1": "B1 full - no_mim > 0 on the mean vision probe.",
    "B2": "B2 full - mim_frozen > 0 on the mean vision probe.",
    "(b)": '(b) needs both; B1 alone = "MIM helps, guidance does not"; refuted here if CI < +1 '
    "point.",
    "C": "C, descriptive: full within 1 point / .02 nats of each specialist.",
}
PRIOR = (
    "One seed: removing the stop gave IMLM 57 -> 67, ITM 92 -> 95, IoU .63 -> .57: A3 may well "
    "fail; said in advance."
)
# {endpoint: (unit, the specialist, whether more is better)}
_SPECIALISTS = {
    WORDS: ("nats", "text_only", False),
    TOPICS: ("points", "text_only", True),
    VISION: ("points", "image_only", True),
    "imlm": ("points", "vl_only", True),
    "itm": ("points", "vl_only", True),
    "r1": ("points", "vl_only", True),
    "iou": ("points", "vl_only", True),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tested:
    """A primary contrast on the seeds that both arms have.

    Attributes:
        endpoint: of which it speaks.
        reference: the arm that is taken from `full`.
        sign: on which side of `bound` the claim has it.
        bound: 0, or the margin.
        differences: f64[n]; n = 0 where an arm was not run.
        rejected: the other side is excluded, by Holm's correction over all primary contrasts.
    """

    endpoint: str
    reference: str
    sign: str
    bound: float
    differences: np.ndarray
    rejected: bool = False

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return len(self.differences) > 1

    @property
    def interval(self) -> Interval:
        """Of the differences, 95 %."""
        return interval(self.differences)

    @property
    def p(self) -> float:
        """Two-sided, against `bound`; 1 where nothing is known, or all differences are `bound`."""
        found = p_value(self.differences - self.bound) if self.known else 1.0
        return 1.0 if np.isnan(found) else found


def primary(endpoints: Endpoints) -> dict[str, Tested]:
    """The five contrasts, tested; one that was not run counts as a test that rejects nothing."""

    def minus(reference: str, endpoint: str, sign: str, bound: float = 0.0) -> Tested:
        differences = endpoints.values(endpoint, {"full": 1, reference: -1})
        given = dict(endpoint=endpoint, reference=reference, sign=sign, bound=bound)
        return Tested(differences=differences, **given)

    made = {
        "A1": minus("text_only", WORDS, "below", margin(endpoints)),
        "A2": minus("no_stop", WORDS, "below"),
        "A3": minus("no_stop", VL, "above", -SDS),
        "B1": minus("no_mim", VISION, "above"),
        "B2": minus("mim_frozen", VISION, "above"),
    }
    sure = holm([test.p for test in made.values()])
    return {
        name: dataclasses.replace(
            test,
            rejected=one and (test.differences.mean() > test.bound) == (test.sign == "above"),
        )
        for (name, test), one in zip(made.items(), sure, strict=True)
    }


def margin(endpoints: Endpoints) -> float:
    """What A1 allows in nats: 20 % of what is lost without the stop, or .02 where that is small."""
    gap = endpoints.values(WORDS, {"no_stop": 1, "text_only": -1})
    return SHARE * float(gap.mean()) if len(gap) and gap.mean() >= SMALL_GAP else NATS


def verdicts(tests: Mapping[str, Tested]) -> dict[str, str]:
    """{rule: the sentence that it gives}, of A1 to (b)."""
    a1, a2, a3, b1, b2 = (tests[name] for name in ("A1", "A2", "A3", "B1", "B2"))
    return {
        "A1": _said(
            a1,
            "with the stop the words are as good as those of text alone, up to the margin",
            "with the stop the words are worse than those of text alone by more than the margin",
        ),
        "A2": _said(
            a2,
            "stopping the gradients helps the words",
            "stopping the gradients harms the words",
        ),
        "A3": _said(
            a3,
            "the stop costs vision-language ability less than half a standard deviation",
            "the stop costs vision-language ability more than half a standard deviation",
        ),
        "(a)": _keeps(a1, a2),
        "B1": _said(b1, "MIM helps the vision probes", "MIM harms the vision probes"),
        "B2": _said(
            b2,
            "its own features, which move and learn from texts, are a better target than those of "
            "a frozen encoder of images alone",
            "a frozen encoder of images alone is the better target",
        ),
        "(b)": _guides(b1, b2),
    }


def _said(test: Tested, claim: str, contrary: str) -> str:
    if not test.known:
        return "not run"
    if test.rejected:
        return claim
    beyond = test.interval.high < test.bound, test.interval.low > test.bound
    if beyond[test.sign == "below"]:
        return f"against the claim: {contrary}"
    return "not shown either way"


def _keeps(a1: Tested, a2: Tested) -> str:
    if not (a1.known and a2.known):
        return "not run"
    if a1.rejected and a2.rejected:
        return "confirmed here: stopping keeps language"
    if a1.interval.low > a1.bound:
        return "refuted here: language is not kept"
    if a1.rejected:
        return "undecided: language is kept, but not shown to be lost without the stop"
    return "undecided"


def _guides(b1: Tested, b2: Tested) -> str:
    if not (b1.known and b2.known):
        return "not run"
    if b1.interval.high < POINT:
        return "refuted here: MIM is worth less than a point"
    less = b2.interval.high < POINT
    if b1.rejected and b2.rejected and not less:
        return "confirmed here: MIM helps, and so does guidance"
    if b1.rejected and not b2.rejected:
        tail = "refuted here" if less else "though a point is not excluded"
        return f"MIM helps, guidance does not ({tail})"
    return "refuted here: guidance is worth less than a point" if less else "undecided"


def specialists(endpoints: Endpoints) -> Iterable[str]:
    """C: what `full` is worse by than each specialist, and whether it is within the bound."""
    for endpoint, (unit, arm, more) in _SPECIALISTS.items():
        worse = endpoints.values(endpoint, {"full": -1, arm: 1} if more else {"full": 1, arm: -1})
        if len(worse) < 2:
            yield f"{endpoint}: `{arm}` was not run"
            continue
        found, bound = interval(worse), NATS if unit == "nats" else POINT
        within = "open" if found.low <= bound < found.high else "no"
        within = "yes" if found.high <= bound else within
        yield f"{endpoint}: worse than `{arm}` by {numbers(found)} {unit}; within: {within}"


def numbers(found: Interval) -> str:
    """Mean and interval, as all tables have them."""
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
