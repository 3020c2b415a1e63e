"""The scoreboard as files: JSON for programs, Markdown for READMEs, HTML with a forest plot."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe

from unified_fm.files import write_whole
from unified_fm.report import charts, report
from unified_fm.scoreboard import row as rows_of
from unified_fm.scoreboard.row import Row, Value

_TEMPLATE = Path(__file__).with_name("page.html.j2")
_SAYS = "says"
_NUMBERS = ("chance", "trivial baseline", "from scratch", "pre-trained", "difference", "p (Holm)")
_NUMBERS += ("teacher", "less the teacher", "published", "seeds", "test evaluated", "seconds")
_IF_ANY = ("p (Holm)", "teacher", "less the teacher", "published")  # columns that few boards have


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What stands above the table.

    Attributes:
        title: of the page.
        facts: short lines by name: the checkpoint, the command, the commit, the device.
        missing: rows that are wanted and not there yet.
    """

    title: str = "Scoreboard"
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    missing: int = 0


def write(folder: Path, rows: Sequence[Row], about: Facts) -> None:
    """Writes scoreboard.json, scoreboard.md and scoreboard.html, each whole."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "facts": dict(about.facts),
        "missing": about.missing,
        "rows": [row.plain() for row in rows],
    }
    text = json.dumps(content, indent=1, ensure_ascii=False, default=list)
    write_whole(folder / "scoreboard.json", text + "\n")
    write_whole(folder / "scoreboard.md", markdown(rows, about))
    write_whole(folder / "scoreboard.html", html(rows, about))


def read(file: Path) -> tuple[list[Row], Facts]:
    """What `write` has put into scoreboard.json.

    Raises:
        OSError: there is no such file.
        ValueError: it is not one of these.
    """
    try:
        found = json.loads(file.read_text("utf-8"))
        rows = [Row.of(each) for each in found["rows"]]
        return rows, Facts(facts=dict(found["facts"]), missing=int(found["missing"]))
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"{file} is no scoreboard.json: {error!r}") from error


def markdown(rows: Sequence[Row], about: Facts) -> str:
    """A heading, what the columns mean, the table, and what has to be said."""
    return "\n".join(
        [
            f"# {about.title}",
            "",
            *(f"- {name}: {value}" for name, value in about.facts.items()),
            "",
            *summary(rows, about),
            "",
            *rows_table(rows),
            "",
            *(f"- {note}" for note in notes(rows)),
            *dict.fromkeys(
                f"- hashes of {_called(row)}: {'; '.join(_hashes(row))}" for row in rows
            ),
            "",
        ]
    )


def table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> Iterator[str]:
    """The lines of a table in Markdown."""
    for line in (head, ["---" for _ in head], *lines):
        yield f"| {' | '.join(_escaped(cell) for cell in line)} |"


def rows_table(rows: Sequence[Row]) -> list[str]:
    """The table of the scoreboard in Markdown, line by line."""
    cells = [_cells(row) for row in rows]
    head = _head(cells)
    return list(table(head, ([each[name] for name in head] for each in cells)))


def html(rows: Sequence[Row], about: Facts) -> bytes:
    """The page: one file, no scripts, nothing fetched."""
    drawn = [one for one in map(_forest_row, rows) if one is not None]
    figures = []
    if drawn:
        svg = charts.to_svg(charts.forest(drawn), salt="forest")
        figures = [markupsafe.Markup(svg)]
    cells = [_cells(row) for row in rows]
    head = _head(cells)
    return report.render(
        _TEMPLATE,
        title=about.title,
        facts=dict(about.facts),
        summary=list(summary(rows, about)),
        head=head,
        numbers=_NUMBERS,
        says=_SAYS,
        rows=[
            {
                "cells": {name: each[name] for name in head},
                "says": row.says,
                "alone": row.alone,
                "more": [*_more(row)],
            }
            for row, each in zip(rows, cells, strict=True)
        ],
        good=rows_of.HELPS,
        bad=rows_of.HURTS,
        figures=figures,
        notes=list(notes(rows)),
    )


def summary(rows: Sequence[Row], about: Facts) -> Iterator[str]:
    """How many rows say what, in words; and by which rule."""
    counts = {said: sum(row.says == said for row in rows) for said in rows_of.SAID}
    parts = [f"{count} of {len(rows)}: {said}" for said, count in counts.items() if count]
    yield "Rows: " + "; ".join(parts or ["none yet"]) + "."
    if about.missing:
        yield f"{about.missing} more are not finished; the same command goes on."
    yield (
        "Pre-training helps where the interval of the difference to the same run from scratch, on"
        " the same test examples and seeds, lies above 0, and the value is above that of the best"
        " trivial baseline, which was computed here with the same labels."
    )
    yield from _together(rows)


def _together(rows: Sequence[Row]) -> Iterator[str]:
    """What is left of the differences where all of them are looked at together."""
    compared = [row for row in rows if row.holm_p is not None]
    if len(compared) < 2:
        return
    differ, alone = [row for row in rows if row.differs], [row for row in rows if row.alone]
    names = "; ".join(f"{_called(row)}, {row.metric}" for row in alone)
    yield (
        "An interval is of its row alone, and of many some exclude 0 by chance. Corrected by Holm's"
        f" method for all {len(compared)} differences, p stays below {rows_of.ALPHA} for"
        f" {len(differ) - len(alone)} of the {len(differ)} that exclude 0"
        + (f"; it does not for {names}." if names else ".")
    )


def _head(cells: Sequence[Mapping[str, str]]) -> list[str]:
    """The columns: those that few boards have only where a row has something there."""
    names = list(cells[0]) if cells else []
    return [n for n in names if n not in _IF_ANY or any(each[n] != "-" for each in cells)]


def _cells(row: Row) -> dict[str, str]:
    """{column: text}, all of them in their order."""
    published = (f"{name} {number(value, row.unit)}" for name, value in row.published.items())
    arms = [each for each in (row.scratch, row.pre_trained) if each is not None]
    return {
        "task": row.task,
        "labels": row.labels or "all",
        "test": f"{row.split} ({row.n:,})",
        "metric": row.metric,
        "chance": "-" if row.chance is None else number(row.chance, row.unit),
        "trivial baseline": (
            number(row.trivial.value, row.unit) if row.trivial else row.trivial_missing or "-"
        ),
        "from scratch": with_interval(row.scratch, row.unit),
        "pre-trained": with_interval(row.pre_trained, row.unit),
        "difference": with_interval(row.difference, row.unit, sign=True),
        "p (Holm)": "-" if row.holm_p is None else _p(row.holm_p),
        _SAYS: row.verdict,
        "teacher": with_interval(row.teacher, row.unit),
        "less the teacher": with_interval(row.from_teacher, row.unit, sign=True),
        "published": ", ".join(published) or "-",
        "seeds": str(max((len(each.seeds) for each in arms), default=0)),
        "test evaluated": "once" if row.tested == 1 else f"{row.tested} times",
        "seconds": f"{row.seconds:.0f}",
    }


def _more(row: Row) -> Iterator[str]:
    """The small print of a row."""
    yield f"chance is {row.chance_is}" if row.chance is not None else "no chance is known"
    if row.trivial is not None:
        yield f"the trivial baseline is {row.trivial.title} {_interval(row.trivial, row.unit)}"
    if row.trivial_missing:
        yield f"not computed: {row.trivial_missing}"
    arms = {"scratch": row.scratch, "pre-trained": row.pre_trained, "teacher": row.teacher}
    for name, value in arms.items():
        if value is not None and len(value.seeds) > 1:
            each = ", ".join(number(one, row.unit) for one in value.seeds.values())
            yield f"{name}, by seed: {each}"
    if row.above_chance is False:
        yield "the pre-trained model is not above chance"
    for system, value in row.published.items():
        yield f"published, other data: {system} {number(value, row.unit)}"
    yield from _hashes(row)


def _hashes(row: Row) -> Iterator[str]:
    for name, hashes in row.hashes.items():
        if hashes:
            yield f"{name} {', '.join(hashes)}"


def notes(rows: Iterable[Row]) -> list[str]:
    """What rows have to say, each once."""
    return list(dict.fromkeys(f"{row.task}: {note}" for row in rows for note in row.notes))


def _forest_row(row: Row) -> charts.ForestRow | None:
    """In percent where it is a share; None where there is nothing to draw, or another unit."""
    values = [each for each in (row.scratch, row.pre_trained, row.trivial) if each is not None]
    if not values or max(abs(each.value) for each in values) > 1:
        return None
    return charts.ForestRow(
        label=f"{_called(row)}: {row.metric}",
        chance=None if row.chance is None else 100 * row.chance,
        trivial=100 * row.trivial.value if row.trivial else None,
        scratch=_arm(row.scratch),
        ours=_arm(row.pre_trained),
        difference=_arm(row.difference),
        good=row.says == rows_of.HELPS and not row.alone,
    )


def _called(row: Row) -> str:
    return f"{row.task}, {row.labels}" if row.labels else row.task


def _arm(value: Value | None) -> charts.Arm | None:
    if value is None:
        return None
    low, high = value.ci95 or (value.value, value.value)
    return charts.Arm(100 * value.value, 100 * low, 100 * high)


def with_interval(value: Value | None, unit: str, *, sign: bool = False) -> str:
    """ "71.2 % [70.1, 72.3]"; "-" for None."""
    if value is None:
        return "-"
    text = number(value.value, "" if sign and unit == "%" else unit, percent=unit == "%")
    text = f"+{text}" if sign and value.value > 0 else text
    return f"{text} {_interval(value, unit)}".rstrip()


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _interval(value: Value, unit: str) -> str:
    if value.ci95 is None:
        return ""
    low, high = (number(end, "", percent=unit == "%") for end in value.ci95)
    return f"[{low}, {high}]"


def number(value: float, unit: str, *, percent: bool = False) -> str:
    """ "71.2 %", or three decimals where it is no share."""
    if unit == "%" or percent:
        return f"{100 * value:.1f}" + (" %" if unit == "%" else "")
    return f"{value:.3f}"


def _escaped(text: Any) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
