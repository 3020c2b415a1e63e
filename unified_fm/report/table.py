"""The table at the end of a run: every metric beside what a guess without the model reaches."""

from collections.abc import Iterable

from unified_fm.evaluators.base import Metric


def format_table(metrics: Iterable[Metric]) -> str:
    """Plain text: every metric with its standard error beside what chance would give."""
    head = ("metric", "value", "chance", "chance is")
    rows = [head, *((m.name, *format_metric(m), m.chance_is) for m in metrics)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2]), row[3]]
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def format_metric(metric: Metric) -> tuple[str, str]:
    """(value with its error, chance) as text: "94.2 +- 1.1 %", "1.0 %"; "-" for no chance."""
    scale, digits, unit = (100, 1, " %") if metric.unit == "%" else (1, 3, "")

    def number(value):
        return f"{scale * value:.{digits}f}"

    error = "" if metric.error is None else f" +- {number(metric.error)}"
    chance = "-" if metric.chance is None else number(metric.chance) + unit
    return number(metric.value) + error + unit, chance
