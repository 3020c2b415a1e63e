"""Where an evaluator stands: its name, the run's folder, the step, and how labels are called."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass
class Place:
    """Of one evaluator. The run fills it in; outside a run there is nowhere to write.

    Attributes:
        name: of the evaluator in the config.
        folder: the workdir, an `epath.Path`; None: nothing is written.
        step: of the parameters that are evaluated.
        class_names: {stream: names of its classes by number}, as the model has learnt them. The
            classes of another source may stand in another order, so labels are compared by name.
        model: its options in the config, by which a result that is kept is known again.
        chooses: whether the best step of the run is chosen by what this evaluator says.
    """

    name: str = ""
    folder: Any = None
    step: int = 0
    class_names: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    chooses: bool = False
