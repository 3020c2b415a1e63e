"""The page of an outcome: every sentence of a conclusion stands below the rule that makes it.

`report.md` beside `plot.svg` and `curves.svg`; the numbers are those of results.json and gate.json,
the rules those of the README, word for word.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import bigram, pages
from experiments.statistics import interval
from experiments.ufm_ablation import outcome, plots, sentences
from experiments.ufm_ablation.arms import arms as planned
from experiments.ufm_ablation.conclusions import (
    CONTRASTS,
    LOSSES,
    PROBES,
    SEPARATE,
    Scores,
    counted,
    deficit,
    look,
    open_contrasts,
    rejected,
    same,
)
from unified_fm import files

README = Path(__file__).parent / "README.md"
RULES = "## Rules, as written before the runs"
COMMAND = "tools/env.sh python -m experiments.ufm_ablation.run --workdir=runs/ufm_ablation"
TEMPERED = {
    "image": "drawings_tempered/cross_entropy",
    "text": "words_tempered/cross_entropy",
}
_TEMPERATURE = {stream: f"{m.split('/')[0]}/temperature" for stream, m in TEMPERED.items()}


def rules() -> str:
    """The pre-registration, word for word as the README has it."""
    text = README.read_text(encoding="utf-8")
    return text.split(RULES + "\n", 1)[1].split("\n## ", 1)[0].strip()


def publish(
    folder: Path,
    found: Mapping[str, Any],
    *,
    gate: Mapping[str, Any] | None = None,
    command: str = COMMAND,
    shows_nothing: bool = False,
) -> str:
    """Writes report.md, plot.svg and curves.svg into a folder; returns the report.

    Args:
        folder: where results.json is.
        found: what that holds.
        gate: what gate.json holds.
        command: that made it.
        shows_nothing: the run was too short to be of any worth.
    """
    scores = counted(found, gate)
    text = write(found, gate=gate, command=command, shows_nothing=shows_nothing)
    state = _state(scores, shows_nothing)
    files.write_whole(folder / "plot.svg", plots.forest(scores, final=state == "final"))
    files.write_whole(folder / "curves.svg", plots.curves(found))
    files.write_whole(folder / "report.md", text)
    return text


def write(
    found: Mapping[str, Any],
    *,
    gate: Mapping[str, Any] | None = None,
    command: str = COMMAND,
    shows_nothing: bool = False,
) -> str:
    """The report as Markdown; arguments as for `publish`."""
    scores = counted(found, gate)
    state = _state(scores, shows_nothing)
    final = state == "final"
    parts = ["# UFM ablation, version 2: the outcome", "", _head(scores, state, shows_nothing), ""]
    if scores.void:
        parts += [sentences.quote("void"), ""]
        parts += [f"`{arm}` is void: a step was not finite.\n" for arm in scores.void]
    parts += [
        "Does joint training of one encoder on images and on text lose against two separate ones, "
        "and do teachers, gradient masks or something simpler repair it? The papers' claim, how "
        "this is built and what deviates from the rules: [README.md](README.md). All numbers: "
        "[results.json](results.json).",
        "",
    ]
    if final:
        parts += ["## Decision", "", *sentences.decisions(scores), ""]
        parts += [
            "## What joint training loses, and who repairs it",
            "",
            sentences.quote("deficit"),
            "",
        ]
        parts += [f"- {said}" for stream in LOSSES for said in sentences.repairs(scores, stream)]
    else:
        parts += ["## Arms against joint training, so far"]
    parts += ["", "![a dot for each seed, the mean and its interval, arm by arm](plot.svg)", ""]
    parts += ["## Primary contrasts", "", *contrasts(scores, final=final), ""]
    parts += ["## All arms", "", *_table(scores, found["floors"]), ""]
    parts += ["## Loss along the run", "", "![loss of training, arm by arm](curves.svg)", ""]
    parts += ["## What the gate chose", "", *_gate(gate), ""]
    parts += ["## Teachers", "", *_teachers(found.get("teachers", {})), ""]
    parts += [
        "## What this does not say",
        "",
        *(f"- {s}" for s in _limits(scores, gate, final)),
        "",
    ]
    parts += ["## The rules, word for word", "", rules(), ""]
    parts += ["## How it was made", "", *pages.made(found, command), ""]
    return "\n".join(parts)


def _state(scores: Scores, shows_nothing: bool) -> str:
    return "interim" if shows_nothing else look(scores)


def _head(scores: Scores, state: str, shows_nothing: bool) -> str:
    count = f"n = {scores.seeds}"
    if shows_nothing:
        return f"**interim, {count}, no decision: a try of a few steps, which shows nothing.**"
    if state == "interim":
        behind = [arm for arm in planned() if arm not in scores.void and not scores.ran(arm)]
        rest = f" Arms that have not been run yet: {', '.join(behind)}." if behind else ""
        return f"**interim, {count}, no decision.**{rest}"
    if state == "extended":
        names = ", ".join(open_contrasts(scores))
        return (
            f"{sentences.quote('look')}\n\n**{count}, no decision at this look**: that is so of "
            f"{names}. Seeds {scores.seeds} to {2 * scores.seeds - 1} follow."
        )
    return f"**{count}.** {_labels(scores)}".rstrip()


def _labels(scores: Scores) -> str:
    limited = scores.gate.get("optimisation_limited")
    return "This run is **optimisation-limited**: see the gate." if limited else ""


def contrasts(scores: Scores, *, final: bool = True) -> list[str]:
    """The table of the primary contrasts; what was not run counts as a test that rejects nothing.

    Marked (Holm): the test survives Holm's correction over all of them, in the claim's direction.
    Before the look that decides nothing is marked.
    """
    survive = rejected(scores) if final else set()
    rows = ["| | stream | contrast | claim | mean [95 %] | |", "| --- " * 6 + "|"]
    for name, contrast in CONTRASTS.items():
        terms = " ".join(
            f"{'+' if factor > 0 else '-'} {arm}" for arm, factor in contrast.factors.items()
        )
        values = scores.of_contrast(name)
        said = "one seed" if len(values) else "not run"
        if len(values) > 1:
            said = sentences.nats(interval(values))
        mark = "(Holm)" if name in survive else ""
        if final and name == "H5":
            mark = f"{mark} {same(scores)}".strip()
        cells = [name, contrast.stream, terms, contrast.sign, said, mark]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _table(scores: Scores, floors: Mapping[str, float]) -> list[str]:
    """Means and half widths of their 95 % intervals; the floors stand beside the arms."""
    metrics = [*LOSSES.values(), *TEMPERED.values(), *PROBES]
    counted = scores.gate.get("probes", {})
    names = [m + ("" if counted.get(m, {}).get("counts", True) else " (†)") for m in metrics]
    rows = [f"| arm | {' | '.join(names)} |", "| --- |" + " ---: |" * len(metrics)]
    for arm in scores.arms:
        cells = [pages.mean(scores.of(arm, metric), 4) for metric in metrics]
        rows.append(f"| {arm} | {' | '.join(cells)} |")
    for label, known in _floors(floors).items():
        cells = [f"{known[metric]:.4f}" if metric in known else "" for metric in metrics]
        rows.append(f"| *{label}* | {' | '.join(cells)} |")
    rows += ["", "Losses in nats on held-out examples, lower is better; accuracies as shares."]
    if not all(each["counts"] for each in counted.values()):
        rows += ["", sentences.quote("probes"), "", "(†) does not count by this rule."]
    return rows


def _floors(floors: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """{what a row is called: {metric: what is reached without a model}}."""
    words = (LOSSES["text"], TEMPERED["text"])
    guess = {metric: value for metric, value in floors.items() if metric != bigram.KEY}
    if words[0] in guess:
        guess.setdefault(words[1], guess[words[0]])
    found = {"without looking (words: unigram)": guess}
    if bigram.KEY in floors:
        found["bigram, both neighbours"] = dict.fromkeys(words, floors[bigram.KEY])
    return found


def _gate(gate: Mapping[str, Any] | None) -> list[str]:
    if gate is None:
        return ["There is no gate.json: size, length, rates and weights are those of the config."]
    lines = [f"- Taken {outcome.line(gate)}."]
    for stream, passed in gate.get("passes", {}).items():
        said = "passes" if passed else "does not pass: **not testable here**"
        lines.append(f"- {stream}: {said}.")
    lines.append(f"- {sentences.tried(gate)}")
    if at_edge := _at_edge(gate):
        lines.append(f"- {at_edge}")
    if ratios := gate.get("static_losses"):
        said = "; ".join(
            f"{ratio} to 1: text {of['text']:.3f}, image {of['image']:.3f}"
            for ratio, of in ratios.items()
        )
        lines.append(f"- Losses of `joint_static` by its ratio of text to image: {said}.")
    if gate.get("optimisation_limited"):
        lines.append(
            f"- `bert_only` does not get below the bigram floor ({gate['bigram']:.3f}): the run is "
            "**optimisation-limited**."
        )
    for metric, each in gate.get("probes", {}).items():
        gains = ", ".join(f"{gain:+.3f}" for gain in each["gains"])
        counts = "counts" if each["counts"] else "does not count"
        lines.append(f"- {metric}: separate minus scratch {gains}: {counts}.")
    if tried := gate.get("candidates"):
        lines += ["", *_candidates(tried)]
    return lines


def _at_edge(gate: Mapping[str, Any]) -> str:
    """That chosen rates are the largest ones tried, "" if none is."""
    edge = [who for who in outcome.RATES if gate["rates"][who] == max(outcome.TRIED)]
    if not edge:
        return ""
    return (
        f"The rates of {', '.join(edge)} are the largest that were tried: a larger one may be "
        "better, and what arms gain may in part be the length of their steps."
    )


def _candidates(tried: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        "| width, layers, steps | rates vit, bert, joint | bert_only | fall of vit_only | joint "
        "minus separate: text | image | passes |",
        "| --- " * 7 + "|",
    ]
    for each in tried:
        rates = ", ".join(f"{each['rates'][who]:g}" for who in outcome.RATES)
        lost = [
            ", ".join(f"{x:+.3f}" for x in each["deficits"][stream]) for stream in ("text", "image")
        ]
        passes = ", ".join(stream for stream, ok in each["passes"].items() if ok) or "neither"
        size = f"{each['width']}, {each['layers']}, {each['steps']}"
        cells = [size, rates, f"{each['bert_only']:.3f}", f"{each['fall']:+.3f}", *lost, passes]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _teachers(teachers: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What they reach, and whether they are as sure as they should be: a temperature of 1."""
    if not teachers:
        return ["No arm with teachers has been run."]
    rows = [
        "| teacher, seed | cross-entropy | after one temperature | temperature |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, log in sorted(teachers.items()):
        for stream, metric in LOSSES.items():
            if metric in log:
                keys = (metric, TEMPERED[stream], _TEMPERATURE[stream])
                cells = [f"{log[key]:.4f}" if key in log else "" for key in keys]
                rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def _limits(scores: Scores, gate: Mapping[str, Any] | None, final: bool) -> Iterable[str]:
    yield (
        "Nothing about base size, and nothing about the paper's numbers: this is an encoder of some"
        " ten thousand parameters to a hundred thousand, trained for minutes."
    )
    yield "Intervals are over seeds of training, not over test sets or corpora."
    yield "Only the primary contrasts are corrected for their number; all else is descriptive."
    for stream in LOSSES:
        if not scores.testable(stream):
            yield f"Nothing about what sharing costs {stream}: it did not pass the gate."
        elif (
            final
            and not scores.absent(stream, "joint", SEPARATE[stream])
            and not deficit(scores, stream)
        ):
            yield f"Nothing about repairs on {stream}: there is no loss shown that needs one."
    if scores.gate.get("optimisation_limited"):
        yield "What sharing costs a model that has learnt more of its text than its bigrams."
    if gate is not None and (at_edge := _at_edge(gate)):
        yield at_edge
    if gate is None:
        yield "Whether another rate or size would say the same: none was chosen beforehand."
    missing = [name for name in CONTRASTS if not len(scores.of_contrast(name))]
    if missing:
        yield f"Nothing about {', '.join(missing)}: an arm was not run, or is void."
