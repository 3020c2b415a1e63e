"""Arms times seeds: the seeds of an arm are trained in one step, results.json grows group by group.

    WORKDIR/results.json       {"settings", "teachers", "floors", "arms": {arm: {"changes", "void",
                               "seeds": {seed: {"scores", "curves", ...}}}}}
    WORKDIR/teachers/SEED/...  runs of the library, one for each seed of the teachers
    WORKDIR/evaluated/ARM-SEED what evaluators write, of a group that begins with this seed

The file is written whole after every group, so the same command goes on where another one ended.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath

from experiments import batches as kept
from experiments import seeds as together
from experiments import workers
from unified_fm import files, main, rules, train
from unified_fm.config import file as config_file
from unified_fm.config.settings import Settings
from unified_fm.runtime.interruption import Interruption
from unified_fm.teachers import runs as teacher_runs

Changes = Mapping[str, Any]  # {dotted path of a setting: value; None takes it out}
_TEACHERS = (1000, 1001)  # their seeds, which no student has; those of the students take turns
_PATHS = ("tokenizer", "teachers")  # settings that say where something lies on this machine
_PAUSE = 20.0  # seconds between two lines about progress
_KNOWN = 0.01  # share of the work behind which the rest can be told: before it lies compiling
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
        jobs: arms that are trained at once, each in a process on one core; 0: one after the other
            in this process, on all it has.
        batches: a folder where the batches of each stream and seed are made once, in the room of
            all of a run's, and which may be removed at any time; None: each run makes its own.
    """

    spec: str
    arms: Mapping[str, Changes]
    seeds: Sequence[int]
    common: Sequence[str] = ()
    group: int = 8
    jobs: int = 0
    batches: Path | None = None

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
        missing = [
            (arm, [s for s in group if str(s) not in found["arms"][arm]["seeds"]])
            for group in groups
            for arm in arms
        ]
        missing = [(arm, seeds) for arm, seeds in missing if seeds]
        for name, log in self._each(_teach, _teachers(arms, missing), workdir):
            found["teachers"][name] = log
        # After the teachers: the arm that a stream is first missing for may be one that asks them.
        for _ in self._each(_record, self._unrecorded(missing), workdir):
            pass
        for arm, made, floors in self._each(_group, missing, workdir):
            found["floors"] |= floors
            entry = found["arms"][arm]
            entry["seeds"] |= made
            entry["void"] = any(each["refused"] for each in entry["seeds"].values())
            _write(workdir / "results.json", found)
        return found

    def _each(self, function: Callable, jobs: Sequence[tuple], workdir: Path) -> Iterator[Any]:
        """What `function` makes of each job, (arm, seeds), as it becomes known."""
        progress = _Progress(self, jobs)
        if not self.jobs:
            for number, job in enumerate(jobs):
                told = functools.partial(progress.stepped, number)
                yield function(self, workdir, *job, progress=told)
            return
        given = [(self, workdir, *job) for job in jobs]
        count = min(self.jobs, len(jobs))
        if count:
            found = workers.each(function, given, processes=count, stepped=progress.stepped)
            yield from (made for _, made in found)

    def _unrecorded(self, jobs: Sequence[tuple]) -> list[tuple]:
        """The arguments of `_record` that make each stream of each seed once."""
        found = {}
        for arm, seeds in jobs if self.batches else ():
            settings = self.settings(self.arms[arm])
            for seed, stream in itertools.product(seeds, settings.streams):
                run = together.of_seed(settings, seed)
                found.setdefault(kept.key(run, stream, settings.total_steps), (arm, [seed], stream))
        return list(found.values())

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


def _group(grid: Grid, workdir: Path, arm: str, group: Sequence[int], *, progress):
    """(arm, {seed: its entry}, {metric: what a guess reaches}) of some seeds of one arm."""
    started = time.monotonic()
    settings = grid.settings(grid.arms[arm])
    runs = [run_of(workdir, settings, s) for s in group]
    how = {}
    if grid.batches:
        how["open_streams"] = functools.partial(kept.Recorded, folder=grid.batches)
    trained = together.train(runs, progress=progress, **how)
    # Its own: evaluators write there and read back what they wrote, and other arms do so now.
    folder = workdir / "evaluated" / f"{arm}-{group[0]}"
    folder.mkdir(parents=True, exist_ok=True)
    scores, floors = trained.evaluate(folder)
    facts = {
        "seconds": round((time.monotonic() - started) / len(group), 1),
        "commit": commit(),
        "device": f"{_device()}, {workers.cores()} of {os.cpu_count()} cores",
        "jax": jax.__version__,
    }
    made = {}
    for i, seed in enumerate(group):
        curves = {name: [round(float(x), 4) for x in c[i]] for name, c in trained.curves.items()}
        refused = int(trained.refused[i])
        made[str(seed)] = {"scores": scores[i], "curves": curves, "refused": refused, **facts}
    return arm, made, floors


def _device() -> str:
    """What JAX computes on: the last digits of a number depend on its kind."""
    kind = jax.devices()[0].device_kind
    if kind != "cpu":
        return kind
    with contextlib.suppress(OSError):
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        told = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in facts if ":" in line)
        widest = "with" if "avx512f" in told.get("flags", "") else "without"
        return f"{told.get('model name', platform.machine())} {widest} AVX-512"
    return platform.machine()


def _record(grid: Grid, workdir: Path, arm: str, group: Sequence[int], stream: str, *, progress):
    """Makes the batches of one stream of an arm's run."""
    settings, (seed,) = grid.settings(grid.arms[arm]), group
    assert grid.batches, "asked for where they are to be kept"
    kept.record(run_of(workdir, settings, seed), stream, grid.batches, progress)


def _teach(grid: Grid, workdir: Path, arm: str, group: Sequence[int], name: str, *, progress):
    """("NAME SEED", the last line of its log) of a teacher of an arm, after its training."""
    settings, (seed,) = grid.settings(grid.arms[arm]), group
    alone = settings.replace(teachers={name: settings.teachers[name]})
    folder = Path(run_of(workdir, alone, seed).teachers[name].path)
    log = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    progress(settings.own_runs()[name].total_steps)
    return f"{folder.name} {folder.parent.parent.name}", json.loads(log.splitlines()[-1])


def run_of(workdir: Path, settings: Settings, seed: int) -> Settings:
    """The run of one seed of an arm, whose teachers are trained first if they are not there."""
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
    return together.of_seed(taught, seed)


def _teachers(arms: Mapping[str, Settings], jobs: Sequence[tuple]) -> list[tuple]:
    """The arguments of `_teach` for every teacher that the jobs, (arm, seeds), learn from; once."""
    found = {}
    for arm, seeds in jobs:
        for seed, name in itertools.product(seeds, arms[arm].own_runs()):
            found.setdefault((name, _TEACHERS[seed % len(_TEACHERS)]), (arm, [seed], name))
    return list(found.values())


class _Progress:
    """Says in the log how far it is, and about how long it takes."""

    def __init__(self, grid: Grid, jobs: Sequence[tuple]):
        self._jobs = [(job, *_work(grid.settings(grid.arms[job[0]]), *job[1:])) for job in jobs]
        self._total = sum(cost for _, _, cost in self._jobs)
        self._done, self._steps = 0.0, [0] * len(jobs)
        self._started = self._said = time.monotonic()

    def stepped(self, number: int, step: int) -> None:
        """To be called after steps of the job of this number, with that of the last one."""
        job, steps, cost = self._jobs[number]
        self._done += cost * (step - self._steps[number]) / steps
        self._steps[number] = step
        now = time.monotonic()
        if step < steps and now - self._said < _PAUSE:
            return
        self._said = now
        share, about = self._done / self._total, ""
        if share > _KNOWN:
            left = (now - self._started) * (1 - share) / share
            about = f"; about {left / 60:.0f} min left in this part"
        arm, seeds, *what = job
        who = " ".join([arm, *what])
        _log.info(
            "%s, seeds %s: step %d of %d%s", who, " ".join(map(str, seeds)), step, steps, about
        )


def _work(settings: Settings, seeds: Sequence[int], what: str = "") -> tuple[int, float]:
    """(steps, cost beside other jobs) of an arm, of its teacher `what`, or of its stream `what`."""
    run = settings.own_runs().get(what, settings)
    shown = 1 if what else len(run.streams) + len(run.teachers)
    return run.total_steps, float(len(seeds) * run.total_steps * shown)


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

    code = ("*.py", "../configs", "../unified_fm")
    dirty = git("status", "--porcelain", "--untracked-files=no", "--", *code)
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+changes" if dirty else "")
