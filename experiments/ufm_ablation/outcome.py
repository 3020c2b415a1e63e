"""What comes out: results.json, table.md, conclusions.md, plot.png, and the published copies."""

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.ufm_ablation import arms, conclusions, plot, store, table
from experiments.ufm_ablation.statistics import Interval, interval
from unified_fm import files

HERE = Path(__file__).parent
FILES = ("results.json", "table.md", "conclusions.md", "plot.png")
_NOTE = """
In the two arms with teachers the target of words was biased (see "Version 1"): these rows do not
tell what distillation does.
"""
_BEGIN, _END = "<!-- results: written by --publish -->", "<!-- end of results -->"


def write(workdir: Path, results: Mapping[str, Mapping[str, Any]], experiment: Any) -> bool:
    """Writes the files; with some arms missing only the table, to the log.

    Args:
        workdir: where the files go.
        results: {arm: result}.
        experiment: for teachers and floors.

    Returns:
        Whether all arms were there.
    """
    scores = {arm: result["scores"] for arm, result in results.items()}
    if not scores:
        return False
    seeds = len(next(iter(next(iter(scores.values())).values())))
    floors = experiment.floors()
    logging.info("\n%s", table.write(scores, _about(), floors, seeds))
    missing = [name for name in ("scratch", *arms.ARMS) if name not in results]
    if missing:
        logging.info("no conclusions yet: %s missing", ", ".join(missing))
        return False
    teachers = experiment.teachers()
    found = {
        "seeds": seeds,
        "settings": {k: v for k, v in results["joint"]["settings"].items() if k != "arm"},
        "floors": floors,
        "rest": arms.REST,
        "summary": table.summary(scores),
        "arms": {arm: {**r, "settings": r["settings"].get("arm")} for arm, r in results.items()},
        "teachers": {name: {**r, "settings": None} for name, r in teachers.items()},
        "cores": len(os.sched_getaffinity(0)),
    }
    store.write_json(workdir / "results.json", found)
    for name, text in texts(found).items():
        files.write_whole(workdir / name, text)
    plot.draw(workdir / "plot.png", scores)
    logging.info("wrote %s in %s", ", ".join(FILES), workdir)
    return True


def texts(found: Mapping[str, Any]) -> dict[str, str]:
    """{file: text} of the table and the conclusions.

    Args:
        found: what `results.json` holds.
    """
    scores = {arm: result["scores"] for arm, result in found["arms"].items()}
    scores = {arm: scores[arm] for arm in ("scratch", *arms.ARMS)}
    rows = table.write(scores, _about(), found["floors"], found["seeds"])
    said = conclusions.write(scores, biased(found))
    note = _NOTE if biased(found) else ""
    return {"table.md": rows + note + _teachers(found), "conclusions.md": said}


def biased(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The streams whose teacher was a biased target: version 1 cut words, never classes."""
    return () if found.get("rest") == arms.REST else ("text",)


def publish(workdir: Path, arguments: Sequence[str], to: Path = HERE) -> None:
    """Copies the files into `to`/results and puts table and conclusions into `to`/README.md.

    Raises:
        ValueError: a file is missing (an arm is), or README.md has no place for the results.
    """
    for name in FILES:
        if not (workdir / name).exists():
            raise ValueError(f"{workdir} has no {name}: an arm is missing, so nothing is published")
    (to / "results").mkdir(exist_ok=True)
    for name in FILES:
        shutil.copyfile(workdir / name, to / "results" / name)
    found = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
    _into_readme(to, _facts(found, arguments))


def rewrite(to: Path = HERE) -> None:
    """Writes the published table and sentences anew from the published `results.json`.

    Raises:
        ValueError: README.md has no place for the results.
    """
    found = json.loads((to / "results" / "results.json").read_text(encoding="utf-8"))
    for name, text in texts(found).items():
        files.write_whole(to / "results" / name, text)
    _into_readme(to, None)


def _into_readme(to: Path, facts: str | None) -> None:
    """Puts facts (those that are there, if None), plot and table between the lines for results."""
    readme = (to / "README.md").read_text(encoding="utf-8")
    if _BEGIN not in readme or _END not in readme:
        raise ValueError(f"README.md lacks the lines {_BEGIN!r} and {_END!r}")
    head, rest = readme.split(_BEGIN, 1)
    middle, tail = rest.split(_END, 1)
    body = [
        facts or middle.strip().split("\n\n")[0],
        "![every arm and seed, metric by metric](results/plot.png)",
        (to / "results" / "table.md").read_text(encoding="utf-8").strip(),
        "What it says is in [results/conclusions.md](results/conclusions.md), all numbers in "
        "[results/results.json](results/results.json).",
    ]
    files.write_whole(to / "README.md", head + "\n\n".join([_BEGIN, *body, _END]) + tail)


def _about() -> dict[str, str]:
    return {name: arm.about for name, arm in arms.ARMS.items()} | {"scratch": "no pre-training"}


def _facts(found: Mapping[str, Any], arguments: Sequence[str]) -> str:
    """Command, commits, seeds, machine and time."""
    results = [*found["arms"].values(), *found["teachers"].values()]
    commits = ", ".join(sorted({f"`{result['commit']}`" for result in results}))
    devices = ", ".join(sorted({result["device"] for result in results}))
    minutes = sum(result["seconds"] for result in results) / 60
    command = " ".join(["python -m experiments.ufm_ablation.run", *arguments])
    return (
        f"Command: `tools/env.sh {command}`. Commit: {commits}. Seeds: 0 to {found['seeds'] - 1} "
        f"(teachers: 1000). Machine: {devices}, {found['cores']} core(s). Training and evaluation: "
        f"{minutes:.0f} minutes in all."
    )


def _teachers(found: Mapping[str, Any]) -> str:
    """The teachers beside the students of their stream alone, in one line each."""
    lines = ["\nThe teachers (one seed), beside the student trained on their stream alone:\n"]
    for name, (stream, what) in {"vit": ("image", "images"), "bert": ("text", "text")}.items():
        teacher = found["teachers"][name]["scores"]
        student = found["arms"][arms.SEPARATE[stream]]["scores"]
        loss: Interval = interval(student[f"{stream}_loss"])
        share: Interval = interval(student[f"{stream}_accuracy"])
        lines.append(
            f"- {what}: cross-entropy {teacher[f'{stream}_loss']:.4f} against {loss.mean:.4f}, "
            f"accuracy {100 * teacher[f'{stream}_accuracy']:.1f} % against {100 * share.mean:.1f} %"
        )
    return "\n".join([*lines, ""])
