"""Arms times seeds: the seeds of an arm are trained in one step, results.json grows group by group.

    WORKDIR/results.json       {"settings", "teachers", "floors", "arms": {arm: {"changes", "void",
                               "seeds": {seed: {"scores", "curves", ...}}}}}
    WORKDIR/teachers/SEED/...  runs of the library, one for each seed of the teachers

The file is written whole after every group, so the same command goes on where another one ended.
"""

import dataclasses
import json
import logging
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath

from experiments import seeds as together
from unified_fm import files, main, rules, train
from unified_fm.config import file as config_file
from unified_fm.config.settings import Settings
from unified_fm.runtime.interruption import Interruption
from unified_fm.teachers import runs as teacher_runs

Changes = Mapping[str, Any]  # {dotted path of a setting: value; None takes it out}
_TEACHERS = (1000, 1001)  # their seeds, which no student has; those of the students take turns
_PATHS = ("tokenizer", "teachers")  # settings that say where something lies on this machine
_PAUSE = 20.0  # seconds between two lines about progress
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """What is to be run.

    Attributes:
        spec: of the config file, as `config.file.load` takes it.
        arms: {arm: its changes of that config}.
        common: "a.b=value", changes of every arm, before its own.
        seeds: of the students.
        group: how many of them are trained in one step, at most.
    """

    spec: str
    arms: Mapping[str, Changes]
    seeds: Sequence[int]
    common: Sequence[str] = ()
    group: int = 8

    def settings(self, changes: Changes) -> Settings:
        """Of one arm and the seed of the config. Raises as `config.file.load`."""
        own = [f"{path}={value}" for path, value in changes.items()]
        return config_file.load(self.spec, [*self.common, *own])

    def run(self, workdir: Path) -> dict[str, Any]:
        """Trains and evaluates what is missing; returns what results.json then holds.

        Raises:
            ValueError: the workdir has results of other settings.
        """
        arms = {arm: self.settings(changes) for arm, changes in self.arms.items()}
        main.prepare_data(base := self.settings({}))
        found = self._found(workdir / "results.json", base)
        groups = [self.seeds[i : i + self.group] for i in range(0, len(self.seeds), self.group)]
        jobs = []
        for group in groups:
            for arm, settings in arms.items():
                missing = [s for s in group if str(s) not in found["arms"][arm]["seeds"]]
                jobs += [(arm, settings, missing)] if missing else []
        progress = _Progress(sum(_cost(settings, group) for _, settings, group in jobs))
        for arm, settings, group in jobs:
            made, floors = _group(
                workdir, found, settings, group, progress.of(arm, settings, group)
            )
            found["floors"] |= floors
            entry = found["arms"][arm]
            entry["seeds"] |= made
            entry["void"] = any(each["refused"] for each in entry["seeds"].values())
            _write(workdir / "results.json", found)
        return found

    def _found(self, path: Path, base: Settings) -> dict[str, Any]:
        """What is there already, if it is of these settings; with an entry for every arm."""
        said = {key: value for key, value in base.plain().items() if key not in _PATHS}
        start = {"settings": said, "teachers": {}, "floors": {}, "arms": {}}
        # As they look when they come from a file.
        start = json.loads(json.dumps(start))
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else start
        lines = _differences(found["settings"], start["settings"])
        for arm, changes in self.arms.items():
            entry = {"changes": json.loads(json.dumps(changes)), "void": False, "seeds": {}}
            there = found["arms"].setdefault(arm, entry)["changes"]
            lines += [f"{arm}: {line}" for line in _differences(there, entry["changes"])]
        if lines:
            raise ValueError(
                f"{path} is of other settings; choose another --workdir or move it away:\n  "
                + "\n  ".join(lines)
            )
        return found


def _group(workdir, found, settings: Settings, group: Sequence[int], progress):
    """({seed: its entry}, {metric: what a guess reaches}) of some seeds of one arm."""
    started = time.monotonic()
    runs = [run_of(workdir, settings, seed, found) for seed in group]
    trained = together.train(runs, progress=progress)
    scores, floors = trained.evaluate()
    facts = {
        "seconds": round((time.monotonic() - started) / len(group), 1),
        "commit": commit(),
        "device": f"{jax.devices()[0].device_kind}, {len(os.sched_getaffinity(0))} cores",
        "jax": jax.__version__,
    }
    made = {}
    for i, seed in enumerate(group):
        curves = {name: [round(float(x), 4) for x in c[i]] for name, c in trained.curves.items()}
        refused = int(trained.refused[i])
        made[str(seed)] = {"scores": scores[i], "curves": curves, "refused": refused, **facts}
    return made, floors


def run_of(workdir: Path, settings: Settings, seed: int, found: dict[str, Any]) -> Settings:
    """The run of one seed of an arm, whose teachers are trained first if they are not there.

    What they reached is noted in `found["teachers"]`.
    """
    if not settings.teachers:
        return together.of_seed(settings, seed)
    teacher = _TEACHERS[seed % len(_TEACHERS)]
    folder = workdir / "teachers" / str(teacher)
    folder.mkdir(parents=True, exist_ok=True)
    own = settings.own_runs()
    wanted = {
        name: entry.replace(config=own[name].replace(seed=teacher))
        for name, entry in settings.teachers.items()
    }
    with Interruption() as stop:
        taught = settings.replace(teachers=wanted)
        taught = teacher_runs.train(taught, epath.Path(folder), stop, train.train)
    if taught is None:
        raise SystemExit(stop.exit_code)
    for name in wanted:
        log = (folder / "teachers" / name / "metrics.jsonl").read_text(encoding="utf-8")
        found["teachers"][f"{name} {teacher}"] = json.loads(log.splitlines()[-1])
    return together.of_seed(taught, seed)


class _Progress:
    """Says in the log how far it is, and about how long it takes."""

    def __init__(self, total: float):
        self._total, self._done = total, 0.0
        self._started = self._said = time.monotonic()

    def of(self, arm: str, settings: Settings, group: Sequence[int]):
        """What an arm's steps call."""
        steps = settings.total_steps
        each = _cost(settings, group) / steps

        def progress(step: int) -> None:
            self._done += each
            now = time.monotonic()
            if step < steps and now - self._said < _PAUSE:
                return
            self._said = now
            left = (now - self._started) / self._done * (self._total - self._done)
            _log.info(
                "%s, seeds %s: step %d of %d; about %.0f min left in all",
                *(arm, " ".join(map(str, group)), step, steps, left / 60),
            )

        return progress


def _cost(settings: Settings, group: Sequence[int]) -> float:
    """Of an arm relative to others: steps, what they look at, and what is said about it."""
    return len(group) * settings.total_steps * (len(settings.streams) + len(settings.teachers))


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for every entry that is not the same, with both values."""
    old, new = (dict(rules.named_leaves(dict(tree))) for tree in (then, now))
    return [
        f"{key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} now"
        for key in sorted({*old, *new})
        if old.get(key, "absent") != new.get(key, "absent")
    ]


def _write(path: Path, found: Mapping[str, Any]) -> None:
    files.write_whole(path, json.dumps(found, indent=1) + "\n", durable=True)


def commit() -> str:
    """The commit of the code; with "+changes" if files that matter differ from it."""
    here = Path(__file__).parent

    def git(*command):
        return subprocess.run(
            ["git", *command], cwd=here, capture_output=True, text=True, check=False
        ).stdout.strip()

    code = ("*.py", "../unified_fm")
    dirty = git("status", "--porcelain", "--untracked-files=no", "--", *code)
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+changes" if dirty else "")
