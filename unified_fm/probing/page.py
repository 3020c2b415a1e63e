"""The results as files: JSON for programs, Markdown for people."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unified_fm.files import write_whole
from unified_fm.probing.results import Result
from unified_fm.report.table import aligned


class Line(NamedTuple):
    """The results of one set, and what has to be said about it."""

    results: Sequence[Result]
    notes: Sequence[str]

    @property
    def methods(self) -> dict[str, Result]:
        """{method: its result}, without baselines."""
        return {one.method: one for one in self.results if not one.baseline}

    @property
    def all_notes(self) -> list[str]:
        """The notes, and those on the data from when kept results were made."""
        kept = (note for one in self.results for note in one.data_notes)
        return list(dict.fromkeys([*self.notes, *kept]))

    @property
    def trivial(self) -> Result | None:
        """The best baseline."""
        found = [one for one in self.results if one.baseline]
        return max(found, key=lambda one: one.headline["value"], default=None)


def write(folder: Path, lines: Mapping[str, Line], facts: Mapping[str, str]) -> None:
    """Writes probe.json and probe.md, each whole.

    Args:
        folder: where.
        lines: {set: its results}.
        facts: what stands above the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [plain(name, line) for name, line in lines.items()]
    text = json.dumps({"facts": dict(facts), "rows": rows}, indent=1, ensure_ascii=False)
    write_whole(folder / "probe.json", f"{text}\n")
    write_whole(folder / "probe.md", markdown(lines, facts))


def plain(name: str, line: Line) -> dict[str, Any]:
    """The results of a set as JSON has them."""
    found: dict[str, Any] = {"set": name, "notes": line.all_notes, "methods": {}, "baselines": {}}
    for one in line.results:
        found["baselines" if one.baseline else "methods"][one.method] = {
            **one.report,
            "settings": one.settings,
            "notes": [*one.report["notes"], *one.notes],
            "seconds": one.seconds,
            "key": one.key,
        }
    if line.trivial is not None:
        found["trivial"] = line.trivial.method
    return found


def markdown(lines: Mapping[str, Line], facts: Mapping[str, str]) -> str:
    """Facts, the table, and what has to be said."""
    rows = table(lines)
    head = [rows[0], tuple("---" for _ in rows[0]), *rows[1:]]
    return "\n".join(
        [
            "# Probes",
            "",
            *(f"- {name}: {value}" for name, value in facts.items()),
            "",
            *(f"| {' | '.join(map(_escaped, row))} |" for row in head),
            "",
            "In percent, with 95 % intervals over the test pictures. The trivial baseline is the"
            " best of those without a network, learnt from the same labels.",
            "",
            *(f"- {note}" for note in _notes(lines)),
            "",
        ]
    )


def text(lines: Mapping[str, Line]) -> str:
    """The table for a terminal."""
    rows = table(lines)
    return "\n".join(aligned(rows, right=range(1, 2)))


def table(lines: Mapping[str, Line]) -> list[tuple[str, ...]]:
    """The head and a row of each set."""
    names = list(dict.fromkeys(name for line in lines.values() for name in line.methods))
    found = [("set", "test", "metric", "chance", "trivial baseline", *names)]
    for name, line in lines.items():
        if not line.results:
            continue
        first = line.results[0]
        chance = first.headline.get("chance")
        found.append(
            (
                name,
                f"{first.report['n']:,}",
                first.report["headline"],
                "-" if chance is None else f"{100 * chance:.1f}",
                "-" if line.trivial is None else f"{_value(line.trivial)}: {line.trivial.method}",
                *(_value(line.methods[m]) if m in line.methods else "-" for m in names),
            )
        )
    return found


def _value(one: Result) -> str:
    value = one.headline
    low, high = value["ci95"]
    return f"{100 * value['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _notes(lines: Mapping[str, Line]) -> Iterator[str]:
    for name, line in lines.items():
        for note in line.all_notes:
            yield f"{name}: {note}"
        for one in line.results:
            for note in (*one.report["notes"], *one.notes):
                yield f"{name}, {one.method}: {note}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
