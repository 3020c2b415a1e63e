"""What reading records has found: counts, the first of each kind by name, and a few numbers each.

Findings of neighbouring records are joined in their order, so the whole is the same whoever has
read which part. A file holds them as JSON and arrays: nothing in it is executed.
"""

import collections
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unified_fm import files
from unified_fm.data.skips import Parts

NAMED = 1000  # records named of each reason; after that they are only counted
_TEXT = 300  # letters of a detail
_PARTS = ("dropped", "tried", "fitting", "mended")


@dataclasses.dataclass
class Findings:
    """An account of some records.

    Attributes:
        counts: {table: {key: how often}}. `records` has read, used, skipped and failed; `skipped`,
            `failed` and `dropped` (of parts) have reasons.
        named: {reason: records}, each with `record`, `place`, `image` and `detail`.
        rows: {name: arrays}, a row for each thing measured, in the order of the records.
        seconds: {what: time}; these alone differ from call to call.
    """

    counts: dict[str, collections.Counter[str]] = dataclasses.field(default_factory=dict)
    named: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)
    rows: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)
    seconds: collections.defaultdict[str, float] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(float)
    )

    def add(self, table: str, key: str, number: int = 1) -> None:
        """Counts something."""
        self.counts.setdefault(table, collections.Counter())[key] += number

    def table(self, name: str) -> collections.Counter[str]:
        """The counts of a table; empty if nothing was counted in it."""
        return self.counts.get(name, collections.Counter())

    def name(self, reason: str, record: Mapping[str, Any]) -> None:
        """Names a record, unless enough of this reason are named."""
        known = self.named.setdefault(reason, [])
        if len(known) < NAMED:
            known.append({**record, "detail": str(record.get("detail", ""))[:_TEXT]})

    def measure(self, name: str, row: Any) -> None:
        """Keeps the numbers of one thing, of the same shape and type each time."""
        self.rows.setdefault(name, []).append(np.asarray(row)[None])

    def column(self, name: str) -> np.ndarray | None:
        """All rows of a name, in order; None if there is none."""
        parts = self.rows.get(name)
        if not parts:
            return None
        if len(parts) > 1:
            self.rows[name] = [np.concatenate(parts)]
        return self.rows[name][0]

    def add_parts(self, parts: Parts) -> None:
        """Counts what became of a record's parts."""
        self.add("parts", "seen", parts.seen)
        for name in _PARTS:
            counts = self.counts.setdefault(name, collections.Counter())
            counts.update(vars(parts)[name])

    def parts(self) -> Parts:
        """What became of all parts, by the training run's own account."""
        tables: dict[str, Any] = {name: self.table(name) for name in _PARTS}
        return Parts(seen=self.table("parts")["seen"], **tables)

    def join(self, later: "Findings") -> None:
        """Takes over what was found in the records behind these."""
        for table, counts in later.counts.items():
            self.counts.setdefault(table, collections.Counter()).update(counts)
        for reason, records in later.named.items():
            known = self.named.setdefault(reason, [])
            known += records[: NAMED - len(known)]
        for name, rows in later.rows.items():
            self.rows.setdefault(name, []).extend(rows)
        for name, seconds in later.seconds.items():
            self.seconds[name] += seconds

    def compact(self) -> "Findings":
        """The same with one array for each name: less to send."""
        for name in self.rows:
            self.column(name)
        return self


def save(path: Path, findings: Findings, about: Mapping[str, Any]) -> None:
    """Writes findings and what they are of, whole or not at all."""
    texts = {
        "about": dict(about),
        "counts": findings.counts,
        "named": findings.named,
        "seconds": findings.seconds,
    }
    text = json.dumps(texts).encode("utf-8", "surrogatepass")
    rows: dict[str, Any] = {f"row {name}": findings.column(name) for name in findings.rows}
    with files.whole(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, json=np.frombuffer(text, np.uint8), **rows)


def load(path: Path) -> tuple[Findings, dict[str, Any]]:
    """What `save` has written.

    Raises:
        OSError: there is no such file.
        ValueError: it is not one of these.
    """
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            texts = json.loads(file["json"].tobytes().decode("utf-8", "surrogatepass"))
            rows = {
                name.removeprefix("row "): [file[name]]
                for name in file.files
                if name.startswith("row ")
            }
    except OSError:
        raise
    except Exception as error:  # zipfile, json, NumPy: each has its own
        raise ValueError(f"{path} is no state of a check: {error!r}") from error
    counts = {table: collections.Counter(found) for table, found in texts["counts"].items()}
    found = Findings(counts, texts["named"], rows, collections.defaultdict(float, texts["seconds"]))
    return found, texts["about"]
