"""Finished results on disk: predictions first, then what is scored of them as they are read back.

    FOLDER/predictions/SET.METHOD.jsonl   {"id": "cat/1.jpg", "prediction": ["cat"], "truth": "cat"}
    FOLDER/results/SET.METHOD.json        values, 95 % intervals, chance, settings, hashes

A result whose key and predictions are as they were is not made again.
"""

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unified_fm.files import write_whole
from unified_fm.probing.cache import Rows
from unified_fm.tasks._scoring.scored import Scored
from unified_fm.tasks._scoring.scorers import classification_scored

_FORM = 1  # raise it when the files mean something else than before
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a method reaches on a set.

    Attributes:
        set: the set's name.
        method: its name; of a baseline its title.
        baseline: whether it is a trivial one, without a network.
        key: of all that it depends on.
        report: what the scorer says: `headline`, `metrics`, `n`, `chance_is`, ...
        settings: of the method.
        notes: what has to be said beside the numbers.
        data_notes: what was to be said about the data when it was made.
        seconds: that it took.
    """

    set: str
    method: str
    baseline: bool = False
    key: str
    report: dict[str, Any]
    settings: dict[str, Any]
    notes: list[str] = dataclasses.field(default_factory=list)
    data_notes: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    @property
    def headline(self) -> dict[str, Any]:
        """`value`, `ci95` and maybe `chance` of the metric that counts."""
        return self.report["metrics"][self.report["headline"]]


class Results:
    """The finished results below a folder."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def get(self, name: str, method: str, key: str) -> Result | None:
        """The result of this key; None: it is not finished, of another key, or damaged."""
        try:
            found = json.loads(self._path("results", name, method, "json").read_text("utf-8"))
            said = self._path("predictions", name, method, "jsonl").read_bytes()
            if found.pop("form") != _FORM or found["key"] != key:
                return None
            if found.pop("predictions") != _digest(said):
                raise ValueError("its predictions are others than were scored")
            return Result(**found)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            _log.warning("the result of %s on %s is not used: %s", method, name, error)
            return None

    def put(
        self,
        made: Result,
        predictions: Sequence[Sequence[str]],
        test: Rows,
        metric: str,
        seed: int = 0,
    ) -> Result:
        """Writes predictions, scores what is read back, and keeps that.

        Args:
            made: the result without its report.
            predictions: of each test row its labels, the best one first.
            test: the rows.
            metric: the one that counts.
            seed: of the bootstrap.

        Raises:
            OSError: it cannot be written.
        """
        path = self._path("predictions", made.set, made.method, "jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (
            json.dumps({"id": one, "prediction": said, "truth": label}, ensure_ascii=False)
            for one, said, label in zip(test.ids, predictions, test.labels, strict=True)
        )
        write_whole(path, "".join(f"{line}\n" for line in lines))
        data = path.read_bytes()
        read = [json.loads(line) for line in data.decode("utf-8").split("\n") if line]
        scored = score([one["prediction"] for one in read], [one["truth"] for one in read], metric)
        finished = dataclasses.replace(made, report=scored.report(seed))
        about = {"form": _FORM, "predictions": _digest(data), **dataclasses.asdict(finished)}
        result = self._path("results", made.set, made.method, "json")
        result.parent.mkdir(parents=True, exist_ok=True)
        write_whole(result, json.dumps(about, indent=1, ensure_ascii=False))
        return finished

    def _path(self, folder: str, name: str, method: str, ending: str) -> Path:
        stem = re.sub(r"[^\w.-]+", "-", f"{name}.{method}")
        return self.folder / folder / f"{stem}.{ending}"


def score(predictions: Sequence[Sequence[str]], truth: Sequence[str], metric: str) -> Scored:
    """The score of classes, the metric of the set first."""
    scored = classification_scored(predictions, truth)
    order = sorted(scored.statistics, key=lambda name: name != metric)
    return dataclasses.replace(scored, statistics={name: scored.statistics[name] for name in order})


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
