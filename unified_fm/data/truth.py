"""Whether an example brings what a task is to predict of it: an option that the tasks share."""

import dataclasses

from unified_fm import choices
from unified_fm.data.pipelines.base import Pipeline


@dataclasses.dataclass(frozen=True, kw_only=True)
class TruthOptions(Pipeline):
    """Of a task: whether what is to be predicted comes along.

    Attributes:
        truth: "needed", or "unused": then no label, box or answer is looked for, and examples
            without any can be used, as those of a test set.
    """

    truth: str = "needed"

    def __post_init__(self) -> None:
        super().__post_init__()
        choices.check("truth", self.truth, ("needed", "unused"))

    @property
    def predicts(self) -> bool:
        """Whether no truth is looked for."""
        return self.truth == "unused"
