"""A row of the scoreboard: one metric of one task, in all its columns, with a sentence by rule."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

# What a row may say, from the best to the worst.
HELPS = "helps"
NOT_ENOUGH = "better than scratch, but not than the trivial baseline"
OPEN = "no difference to scratch is shown"
HURTS = "worse than scratch"
MISSING = "not measured"
SAID = (HELPS, NOT_ENOUGH, OPEN, HURTS, MISSING)
ALPHA = 0.05
_VALUES = ("trivial", "scratch", "pre_trained", "difference", "teacher", "from_teacher")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Value:
    """A number with its 95 % interval.

    Attributes:
        value: of a share 0 to 1; over several seeds their mean.
        ci95: from drawing the test examples again, all seeds together; None: there is none.
        seeds: the value of each seed, by its number; seeds vary for themselves.
        title: what it was made by ("TF-IDF and logistic regression").
    """

    value: float
    ci95: tuple[float, float] | None = None
    seeds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    title: str = ""

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Value":
        """A value of JSON. Raises TypeError: it is none."""
        ends = plain["ci95"]
        return cls(**{**plain, "ci95": None if ends is None else (ends[0], ends[1])})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of one task with as many labels.

    Attributes:
        task: its name.
        labels: how much of the training data was used, as `few:` takes it; "": all.
        split: of the test data.
        n: test examples that the metric is of.
        metric: its name.
        unit: "%" for a share, "" for another number.
        chance: what a guess reaches; None: it was not said.
        chance_is: which guess.
        trivial: the best of the baselines without a network; None: there is none.
        trivial_missing: why there is none, or why some could not be computed.
        scratch, pre_trained: the same run from new parameters, and from a checkpoint.
        difference: pre-trained minus scratch, the same examples drawn together.
        teacher: the same run from what the checkpoint was distilled from; None: it had no teacher
            for this task.
        from_teacher: pre-trained minus teacher, drawn alike.
        holm_p: of the difference, by Holm's method corrected for all rows of the board; None: there
            is none, or it was not computed.
        says: one of `SAID`, by the row alone.
        above_chance: whether the pre-trained interval lies above chance; None where unknown.
        published: {system: value} of papers, which are other data or other sizes; only labelled so.
        hashes: {"config", "data", "checkpoint", "teacher"}: lists of all that went in.
        seconds: of all cells of the row.
        tested: how often the test split was evaluated, by all that is noted in the board's folder.
        notes: what has to be said beside the numbers.
    """

    task: str
    labels: str
    split: str
    n: int
    metric: str
    unit: str
    chance: float | None
    chance_is: str
    trivial: Value | None
    trivial_missing: str = ""
    scratch: Value | None = None
    pre_trained: Value | None = None
    difference: Value | None = None
    teacher: Value | None = None
    from_teacher: Value | None = None
    holm_p: float | None = None
    says: str = MISSING
    above_chance: bool | None = None
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)
    hashes: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    tested: int = 0
    notes: Sequence[str] = ()

    @property
    def differs(self) -> bool:
        """Whether its own interval excludes 0."""
        return self.says not in (OPEN, MISSING)

    @property
    def alone(self) -> bool:
        """Whether it does, but not once the other rows of the board are thought of."""
        return self.differs and self.holm_p is not None and self.holm_p >= ALPHA

    @property
    def verdict(self) -> str:
        """What it says, and whether that is of the row alone."""
        return self.says + (" (not after Holm's correction)" if self.alone else "")

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Row":
        """A row of what `plain` gave, after JSON.

        Raises:
            TypeError, KeyError: it is none.
        """
        values = {
            name: None if plain.get(name) is None else Value.of(plain[name]) for name in _VALUES
        }
        return cls(**{**plain, **values})


def judged(
    difference: Value, pre_trained: Value, trivial: Value | None, chance: float | None = None
) -> str:
    """The sentence of a row.

    It helps only where the paired interval lies above 0 *and* the pre-trained value is above that
    of the trivial baseline, and above chance; without a baseline the first is not enough either.
    """
    low, high = difference.ci95 or (float("-inf"), float("inf"))
    if low > 0:
        beaten = trivial is not None and pre_trained.value > max(trivial.value, chance or 0.0)
        return HELPS if beaten else NOT_ENOUGH
    return HURTS if high < 0 else OPEN
