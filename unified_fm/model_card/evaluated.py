"""What a run has measured of itself: the scores that it keeps beside its predictions."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unified_fm import touched
from unified_fm.model_card.data import without_folders
from unified_fm.scoreboard.row import Value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One metric of one evaluator.

    Attributes:
        evaluator: its name in the run.
        source: of the examples.
        n: how many.
        metric: its name.
        unit: "%" for a share, "" for another number.
        value: with its interval.
        chance: what a guess reaches; None: it was not said.
        chance_is: which guess.
        notes: what has to be said beside it.
    """

    evaluator: str
    source: str
    n: int
    metric: str
    unit: str
    value: Value
    chance: float | None
    chance_is: str
    notes: tuple[str, ...] = ()


def of_run(folder: Path, step: int) -> list[Evaluated]:
    """The scores in RUN/predictions/NAME-STEP.json of this step; of no other.

    Raises:
        ValueError: one of the files is damaged.
    """
    found: list[Evaluated] = []
    looked = {source: len(times) for source, times in touched.read(folder).items()}
    for file in sorted((folder / "predictions").glob(f"*-{step}.json")):
        try:
            about = json.loads(file.read_text("utf-8"))
            found += _metrics(file.stem.removesuffix(f"-{step}"), about, looked)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is no score of a run: {error!r}") from error
    return found


def _metrics(
    evaluator: str, about: dict[str, Any], looked: Mapping[str, int]
) -> Iterator[Evaluated]:
    notes = tuple(about["notes"])
    if times := looked.get(about["source"]):
        notes += (f"these test data were evaluated {'once' if times == 1 else f'{times} times'}",)
    for name, metric in about["metrics"].items():
        low, high = metric["ci95"]
        yield Evaluated(
            evaluator=evaluator,
            source=without_folders(about["source"]),
            n=int(about["n"]),
            metric=name,
            unit="%" if "percent" in metric else "",
            value=Value(value=float(metric["value"]), ci95=(float(low), float(high))),
            chance=metric.get("chance"),
            chance_is=about["chance_is"],
            notes=notes,
        )
