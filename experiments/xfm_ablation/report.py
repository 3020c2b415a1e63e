"""The page of the outcome: every sentence of a decision stands below the rule that makes it.

`report.md` beside `plot.svg` and `curves.svg`; the numbers are those of results.json and gate.json,
the rules those of the README, word for word. Until every counted arm has all seeds that the gate
asked for, the report is interim and decides nothing.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments import bigram, pages
from experiments.statistics import interval
from experiments.xfm_ablation import conclusions, plots
from experiments.xfm_ablation import gate as gates
from experiments.xfm_ablation.arms import COUNTED
from experiments.xfm_ablation.conclusions import PRIOR, RULES, Tested
from experiments.xfm_ablation.endpoints import NAMES, VISION, VL, WORDS, Endpoints, of_run
from experiments.xfm_ablation.gate import Gate
from unified_fm import files

README = Path(__file__).parent / "README.md"
HEADING = "## The rules"


def rules() -> str:
    """The pre-registration, word for word as the README has it."""
    text = README.read_text(encoding="utf-8")
    return text.split(HEADING + "\n", 1)[1].split("\n## ", 1)[0].strip()


def publish(
    folder: Path,
    found: Mapping[str, Any],
    gate: Gate | None = None,
    *,
    command: str = "",
    shows_nothing: bool = False,
) -> str:
    """Writes report.md, plot.svg and curves.svg into a folder; returns the report.

    Args:
        folder: where results.json is.
        found, gate, command, shows_nothing: as for `write`.
    """
    text = write(found, gate, command=command, shows_nothing=shows_nothing)
    endpoints = _endpoints(found, gate)
    final = _final(endpoints, gate, shows_nothing)
    files.write_whole(folder / "plot.svg", plots.forest(endpoints, final=final))
    files.write_whole(folder / "curves.svg", plots.curves(found))
    files.write_whole(folder / "report.md", text)
    return text


def write(
    found: Mapping[str, Any],
    gate: Gate | None = None,
    *,
    command: str = "",
    shows_nothing: bool = False,
) -> str:
    """The report as Markdown.

    Args:
        found: what results.json holds.
        gate: says how many seeds are wanted; None: not known, so nothing is decided.
        command: that made it.
        shows_nothing: the run was too short to be of any worth.
    """
    endpoints = _endpoints(found, gate)
    tests = conclusions.primary(endpoints)
    final = _final(endpoints, gate, shows_nothing)
    parts = ["# X-FM ablation: the outcome", "", _head(endpoints, final, shows_nothing), ""]
    parts += [f"`{arm}` is void: a step was not finite.\n" for arm in endpoints.void]
    parts += [
        "Does stopping the gradients of the fusion losses keep the language of X-FM, and does "
        "masked image modelling towards its own features help its vision? How this is built and "
        "what the rules leave open: [README.md](README.md). All numbers: "
        "[results.json](results.json).",
        "",
    ]
    if final:
        parts += ["## Decision", ""]
        for name, sentence in conclusions.verdicts(tests).items():
            parts += [f"> {RULES[name]}", "", f"{name}: **{sentence}**.", ""]
    parts += ["## Primary contrasts", "", *contrasts(tests, final=final), ""]
    parts += [f"Prior: {PRIOR}", ""]
    parts += ["![arm minus full: a dot for each seed, the mean and its interval](plot.svg)", ""]
    if final:
        parts += ["## C", "", f"> {RULES['C']}", ""]
        parts += [*(f"- {line}" for line in conclusions.specialists(endpoints)), ""]
    parts += ["## All arms", "", *_table(endpoints, found["floors"]), ""]
    parts += ["## Exploratory: arm - full", "", *_others(endpoints), ""]
    parts += ["## Loss along the run", "", "![loss of training, arm by arm](curves.svg)", ""]
    parts += ["## What the gate chose", ""]
    parts += [*(gates.table(gate) if gate else ["The gate was not run."]), ""]
    parts += ["## Teacher", "", *_teachers(found.get("teachers", {})), ""]
    parts += ["## What this does not say", "", *(f"- {s}" for s in _limits(tests, endpoints)), ""]
    parts += [HEADING, "", rules(), "", "## How it was made", "", *pages.made(found, command), ""]
    return "\n".join(parts)


def _endpoints(found: Mapping[str, Any], gate: Gate | None) -> Endpoints:
    return Endpoints(found, gate.n if gate else None)


def _final(endpoints: Endpoints, gate: Gate | None, shows_nothing: bool) -> bool:
    return gate is not None and endpoints.complete == gate.n and not shows_nothing


def contrasts(tests: Mapping[str, Tested], *, final: bool = True) -> list[str]:
    """The table of the primary contrasts. (Holm): the claim survives Holm's correction.

    Before all seeds are there it has no p values and no marks.
    """
    rows = ["| | endpoint | contrast | claim | mean [95 %] | p | |", "| --- " * 7 + "|"]
    for name, test in tests.items():
        said = conclusions.numbers(test.interval) if test.known else "not run"
        claim = f"{test.sign} {test.bound:.4g}"
        p, mark = (f"{test.p:.2g}", "(Holm)" if test.rejected else "") if final else ("", "")
        cells = [name, test.endpoint, f"full - {test.reference}", claim, said, p, mark]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _head(endpoints: Endpoints, final: bool, shows_nothing: bool) -> str:
    count = f"n = {endpoints.complete}"
    if shows_nothing:
        return f"**interim, {count}, no decision: a try of a few steps, which shows nothing.**"
    return f"**{count}.**" if final else f"**interim, {count}, no decision.**"


def _table(endpoints: Endpoints, floors: Mapping[str, float]) -> list[str]:
    """Means and half widths of their 95 % intervals; what a guess reaches stands below."""
    rows = [f"| arm | {' | '.join(NAMES)} |", "| --- |" + " ---: |" * len(NAMES)]
    for arm in endpoints.arms:
        cells = [pages.mean(endpoints.of(arm, name), 3) for name in NAMES]
        rows.append(f"| {arm}{'' if arm in COUNTED else ' (exploratory)'} | {' | '.join(cells)} |")
    guess = of_run(floors)
    cells = [f"{guess[name]:.3f}" if name in guess else "" for name in NAMES]
    rows.append(f"| *without looking (words: unigram)* | {' | '.join(cells)} |")
    if bigram.KEY in floors:
        cells = [f"{floors[bigram.KEY]:.3f}" if name == WORDS else "" for name in NAMES]
        rows.append(f"| *bigram, both neighbours* | {' | '.join(cells)} |")
    said = "`words` in nats, lower is better; `feature_sd` near 0 would be collapse; `vl` in SDs of"
    return [*rows, "", f"{said} the runs; all else in points. `vision` is the mean of the probes."]


def _others(endpoints: Endpoints) -> list[str]:
    """Every arm of no rule against `full`; no test among them is corrected for their number."""
    names = (WORDS, VISION, VL)
    rows = []
    for arm in endpoints.arms:
        if arm not in COUNTED:
            each = [endpoints.values(name, {arm: 1, "full": -1}) for name in names]
            cells = [conclusions.numbers(interval(v)) if len(v) > 1 else "" for v in each]
            rows.append(f"| {arm} | {' | '.join(cells)} |")
    if not rows:
        return ["No other arm was run."]
    return [f"| arm | {' | '.join(names)} |", "| --- " * (1 + len(names)) + "|", *rows]


def _teachers(teachers: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What they reach."""
    if not teachers:
        return ["No arm with a teacher was run."]
    known = {name: of_run(log) for name, log in sorted(teachers.items())}
    asked = [name for name in NAMES if any(name in each for each in known.values())]
    rows = [f"| teacher, seed | {' | '.join(asked)} |", "| --- |" + " ---: |" * len(asked)]
    for name, each in known.items():
        cells = [f"{each[key]:.3f}" if key in each else "" for key in asked]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def _limits(tests: Mapping[str, Tested], endpoints: Endpoints) -> Iterable[str]:
    yield (
        "Nothing about base size, and nothing about the paper's numbers: these encoders have a few "
        "hundred thousand parameters, learn from composed scenes of 64 drawings, and are trained "
        "for minutes."
    )
    yield "Intervals are over seeds of training, not over test sets or corpora."
    yield "Only the primary contrasts are corrected for their number; all else is descriptive."
    yield (
        "n is chosen for words and for the vision probes. For A3 it is small, so a cost that is "
        "not shown may be there; and its unit, the spread of all runs, is noise where arms agree."
    )
    yield (
        "All arms have one rate and one clip of the whole gradient, none of them tuned: a "
        "specialist is as good as this recipe makes it."
    )
    yield (
        "B1: `no_mim` has none of the images of the stream `image`, of which kind those of the "
        "probe of objects are."
    )
    yield (
        "B2: the target of `mim_frozen` differs in two ways, it knows no texts and it stands still."
        " All seeds have one of two such targets, which the interval does not know: "
        f"{_by_teacher(endpoints)}."
    )
    yield "C: the probe of topics reads the first token, which ITC trains and MLM alone does not."
    missing = [name for name, test in tests.items() if not test.known]
    if missing:
        yield f"Nothing about {', '.join(missing)}: an arm was not run, or is void."


def _by_teacher(endpoints: Endpoints) -> str:
    """full - mim_frozen on the vision probes, apart for the two teachers."""
    seeds = endpoints.values(VISION, {"full": 1, "mim_frozen": -1})
    if len(seeds) < 2:
        return "not run"
    even, odd = seeds[::2].mean(), seeds[1::2].mean()
    return f"full - mim_frozen is {even:+.2f} points with one of them, {odd:+.2f} with the other"
