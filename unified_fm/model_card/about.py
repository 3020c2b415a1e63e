"""What a model card is made of: facts that others have found, none of them written by hand."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from unified_fm.model_card.data import Used, streams
from unified_fm.model_card.evaluated import Evaluated
from unified_fm.scoreboard.page import Facts
from unified_fm.scoreboard.row import Row

LIBRARY = "unified_fm"
UNSTATED = "unknown"  # the Hub's word for a licence that nobody has stated


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """The facts of one card.

    Attributes:
        name: of the model.
        info: as of `inference.card.info`; of an exported folder what of it is known.
        config: of the run; {} where there is none.
        used: the data of the run.
        evaluated: scores of the run itself, at the step of the parameters.
        rows, board: of a scoreboard that started from these parameters; none: no rows.
        hub_tasks: {task of a row: its name on the Hub, or of ours}.
        license: identifier of the Hub, stated by whoever publishes.
        language: of the texts, as the Hub abbreviates it; "": not stated.
        library: that loads the folder.
        exported: the kind of an exported folder ("hf-roberta"); "": none.
    """

    name: str
    info: Mapping[str, Any]
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    used: Sequence[Used] = ()
    evaluated: Sequence[Evaluated] = ()
    rows: Sequence[Row] = ()
    board: Facts = dataclasses.field(default_factory=Facts)
    hub_tasks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    license: str = UNSTATED
    language: str = ""
    library: str = LIBRARY
    exported: str = ""

    @property
    def model(self) -> Mapping[str, Any]:
        """The model of the config; {} of a config that nobody has checked and that has none."""
        found = self.config.get("model")
        return found if isinstance(found, Mapping) else {}

    @property
    def pipelines(self) -> list[str]:
        """Of the run's streams, the library's alone: other names are modules of the user's."""
        names = [str(entry.get("pipeline", "")) for _, entry in streams(self.config)]
        return list(dict.fromkeys(name for name in names if name and "." not in name))

    @property
    def measured_rows(self) -> list[Row]:
        """Rows of the scoreboard that have measured something."""
        return [row for row in self.rows if row.pre_trained is not None]
