"""The table at the end of a run: every metric beside what a guess without the model reaches."""

from collections.abc import Iterable, Sequence

from unified_fm.evaluators.base import Metric


def format_table(metrics: Iterable[Metric]) -> str:
    """Plain text: every metric with its standard error beside what chance would give."""
    head = ("metric", "value", "chance", "chance is", "how")
    rows = [head, *((m.name, *format_metric(m), m.chance_is, m.how) for m in metrics)]
    if not any(how for *_, how in rows[1:]):
        rows = [row[:-1] for row in rows]
    rows.insert(1, tuple("-" * max(map(len, column)) for column in zip(*rows, strict=True)))
    return "\n".join(aligned(rows, right=(1, 2)))


def aligned(rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> list[str]:
    """Lines of a table whose columns are flush; `right` numbers those that are so on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [f"{cell:{'>' if i in right else '<'}{widths[i]}}" for i, cell in enumerate(row)]
        lines.append("  ".join(cells).rstrip())
    return lines


def format_metric(metric: Metric) -> tuple[str, str]:
    """(value with its error, chance) as text: "94.2 +- 1.1 %", "1.0 %"; "-" for no chance."""
    scale, digits, unit = (100, 1, " %") if metric.unit == "%" else (1, 3, "")

    def number(value):
        return f"{scale * value:.{digits}f}"

    error = "" if metric.error is None else f" +- {number(metric.error)}"
    chance = "-" if metric.chance is None else number(metric.chance) + unit
    return number(metric.value) + error + unit, chance
