"""Plots the metrics of one or several runs: one panel for each measurement, one line for each run.

    python tools/plot.py runs/a runs/b --out=compare.png
    python tools/plot.py runs/a/metrics.jsonl --names='pairs/.*' --out=pairs.svg
    python tools/plot.py runs/a --heat=telemetry/cosine --out=cosine.png

A run is a folder with metrics.jsonl or such a file.
"""

import argparse
import pathlib
import re
import sys
from collections.abc import Sequence

from unified_fm import choices
from unified_fm.report import charts


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, writes the picture, says where."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=pathlib.Path, help="folders or metrics.jsonl files")
    parser.add_argument("--names", default="(?!telemetry/).*", help="regex of whole names to plot")
    parser.add_argument("--heat", default="", help="prefix of names to draw as a heat map instead")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("metrics.png"))
    options = parser.parse_args(arguments)
    if options.out.suffix not in (".png", ".svg"):
        parser.error(f"--out={options.out} ends in {options.out.suffix!r}; possible: .png, .svg")

    files = [run / "metrics.jsonl" if run.is_dir() else run for run in options.runs]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        parser.error(f"no such file: {', '.join(missing)}")
    runs = dict(zip(labels(files), map(charts.read_metrics, files), strict=True))
    if options.heat:
        figure = _heat(runs, options.heat.rstrip("/") + "/", parser)
    else:
        figure = charts.curves(select(runs, options.names) or _nothing(runs, options.names, parser))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    charts.save(figure, options.out)
    print(f"wrote {options.out}")
    return 0


def labels(files: Sequence[pathlib.Path]) -> list[str]:
    """A short name for each file: its folder's name, or the path where two would be equal."""
    short = [file.parent.name if file.name == "metrics.jsonl" else file.stem for file in files]
    return [
        name if short.count(name) == 1 and name else str(file)
        for name, file in zip(short, files, strict=True)
    ]


def select(
    runs: dict[str, dict[str, charts.Series]], pattern: str
) -> dict[str, dict[str, charts.Series]]:
    """{measurement: {run: series}} of the names that the regex matches as a whole."""
    names = dict.fromkeys(name for series in runs.values() for name in series)
    return {
        name: {run: series[name] for run, series in runs.items() if name in series}
        for name in names
        if re.fullmatch(pattern, name)
    }


def _heat(runs, prefix, parser):
    if len(runs) > 1:
        parser.error(f"--heat draws one run; {len(runs)} were given")
    (series,) = runs.values()
    rows = {
        name.removeprefix(prefix): line for name, line in series.items() if name.startswith(prefix)
    }
    return charts.heat_map(
        rows or _nothing(runs, prefix, parser), title=prefix.rstrip("/").split("/")[-1]
    )


def _nothing(runs, asked, parser):
    names = sorted({name for series in runs.values() for name in series})
    near = choices.nearest(asked, names, 0)
    hint = f"; did you mean {near!r}?" if near else ""
    parser.error(f"no measurement matches {asked!r}{hint} There are: {', '.join(names) or 'none'}")


if __name__ == "__main__":
    sys.exit(main())
