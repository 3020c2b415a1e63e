"""A cell of the scoreboard: one model, or one trivial baseline, measured once on one task.

    Cell(task="vqa", arm="pre-trained", config="finetune/vqa:demo", init="runs/xfm", seed=1)

A cell has a key, the hash of all that its numbers depend on: the settings after all changes, the
data, and the checkpoint it starts from. A result is found again by its key and by nothing else, so
a changed config, other data or another checkpoint is another cell.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from unified_fm import choices

ARMS = ("trivial", "scratch", "pre-trained", "teacher")
STARTED = ("pre-trained", "teacher")  # those that start from something


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """What is to be measured.

    Attributes:
        task: the name of the row.
        arm: "scratch" and "pre-trained" are the same run but for where it starts; so is "teacher",
            from what the checkpoint was distilled from; "trivial" is a method without a network.
        seed: of the head's initial values, the order of the data and dropout.
        config: of the fine-tuning, as `--config` takes it; of "trivial" the name of the baseline.
        changes: "a.b=value", as `--config.a.b=value`, in their order.
        init: run, checkpoint or folder that "pre-trained" or "teacher" starts from; "" otherwise.
        labels: how much of the training data is used, as `few:` takes it ("30", "5%"); "": all.
    """

    task: str
    arm: str
    config: str
    seed: int = 0
    changes: Sequence[str] = ()
    init: str = ""
    labels: str = ""

    def __post_init__(self):
        choices.check("arm", self.arm, ARMS)
        if bool(self.init) != (self.arm in STARTED):
            raise ValueError(
                f"the arm {self.arm!r} of {self.task} has init={self.init!r}: only 'pre-trained'"
                " and 'teacher' start from something, and they must"
            )

    @property
    def title(self) -> str:
        """A line for people: `vqa, 5% of the data, pre-trained, seed 1`."""
        amount = f"{self.labels} of the data" if self.labels.endswith("%") else ""
        if self.labels and not amount:
            amount = f"{self.labels} labels of each class"
        seed = f"seed {self.seed}" if self.arm != "trivial" else self.config
        return ", ".join(filter(None, [self.task, amount, self.arm, seed]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hashes:
    """What a cell's numbers depend on, as short hashes.

    Attributes:
        config: of the whole settings, without what only says where files lie.
        data: of the training and the test data.
        checkpoint: of the parameters it starts from; "" where it starts from none.
    """

    config: str
    data: str
    checkpoint: str = ""

    def key(self, cell: Cell) -> str:
        """The name under which the result is kept: 20 hexadecimal digits."""
        what = dataclasses.asdict(self) | {"arm": cell.arm, "task": cell.task, "seed": cell.seed}
        return short_hash(what, 20)


def short_hash(value: Any, digits: int = 12) -> str:
    """A hash of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """A cell with its predictions.

    Attributes:
        cell: what was measured.
        hashes: what the numbers depend on.
        lines: a prediction of each test example, {"id", "prediction", "truth", ...}.
        seconds: what it took.
        facts: what else a reader may want to know (commit, device, steps).
    """

    cell: Cell
    hashes: Hashes
    lines: Sequence[Mapping[str, Any]]
    seconds: float
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> str:
        """See `Hashes.key`."""
        return self.hashes.key(self.cell)
