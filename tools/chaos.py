"""Runs a tiny training under random kills, signals and full disks, and compares how it ends.

    python tools/chaos.py --kills=30 --seed=0
    python tools/chaos.py --kills=1000 --seed=1 --jobs=2

Every run is started again with the same command after each fault, until it is finished. Its last
parameters, optimizer state, averages, position and metrics must then be, bit for bit, those of a
run that nothing disturbed. The exit code is 1 after any difference, any process that does not end
in time after a signal, any wrong exit code, and any step lost that should have been saved.

The seed decides the kind of each fault, its phase and its moment within the phase; when it strikes
to the microsecond is up to the machine. Processes are forked from this one, which has imported
everything and started no device: the time before `main()` begins is not covered, all after it is.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
FAULTS_OF_A_RUN = 8
PATIENCE = 600  # seconds for a process that nothing has asked to stop


@dataclasses.dataclass
class Child:
    """A process at work, and what is known of it."""

    pid: int
    pipe: int
    fault: Any  # None: left in peace
    began: float
    occurrence: int = 1  # of the fault's phase, at which it is due
    rest: bytes = b""
    phase: str = "start"
    steps: int = 0
    first_step: int | None = None
    seen: dict[str, int] = dataclasses.field(default_factory=dict)
    times: list[tuple[str, float]] = dataclasses.field(default_factory=list)
    due: float | None = None  # when the fault strikes, or its second half
    struck: float | None = None
    struck_in: str = ""
    code: int | None = None


class Run:
    """One training, from its first attempt to the comparison."""

    def __init__(self, number: int, folder: pathlib.Path, disk: Callable[[pathlib.Path], Any]):
        self.number = number
        self.folder = folder / f"run-{number}"
        self.disk_folder = self.folder / "disk"
        self.disk_folder.mkdir(parents=True)
        self.disk = disk(self.disk_folder)
        self.workdir = self.disk_folder / "run"
        self.log = self.disk_folder / "log"  # it too lies on the disk that fills up
        self.compiled = self.folder / "compiled"
        self.attempts = self.faults = 0
        self.wrong = False
        self.child: Child | None = None  # at work, or the one that ended last
        self.pending: list[Any] = []  # outcomes of which it is not known yet what came back
        self.script: Iterator[Any] = iter(())

    def close(self) -> None:
        """Removes the run's files, or takes them off the disk that goes away."""
        if self.child is not None and self.child.code is None:
            os.kill(self.child.pid, signal.SIGKILL)
            os.waitpid(self.child.pid, 0)
        if self.wrong:
            shutil.copytree(self.disk_folder, self.folder / "kept")
        self.disk.close()
        if not self.wrong:
            shutil.rmtree(self.folder)


class Chaos:
    """All runs, some of them side by side, in one loop."""

    def __init__(self, options: argparse.Namespace, folder: pathlib.Path, disk: Any):
        from tools import chaos_attempt, chaos_faults

        self.options, self.folder, self.disk = options, folder, disk
        self.work, self.faults = chaos_attempt, chaos_faults
        self.argv = ["unified_fm", f"--config={options.config}", *options.overrides]
        self.config = chaos_attempt.prepare([*self.argv, "--workdir=none"])
        self.last, self.every = self.config.total_steps, self.config.checkpoint.every
        self.usual: dict[str, list[float]] = {}  # phase -> seconds, one time after the other
        self.undisturbed: dict[str, str] = {}  # the end, by name
        self.runs: list[Run] = []
        self.made = self.compared = self.planned = 0
        self.outcomes: list[Any] = []
        self.wrong: list[str] = []
        self.began = self.told = time.monotonic()

    def go(self) -> Callable[[], int] | None:
        """Works until all is done and returns None; in every forked child, returns its job."""
        self._open(self._peace)
        while self.runs:
            for run in [
                run for run in self.runs if run.child is None or run.child.code is not None
            ]:
                if (job := self._next(run)) is not None:
                    return job
            self._wait()
            self._tell()
            while self.usual and self.planned < self.options.kills:
                if len(self.runs) == self.options.jobs:
                    break
                self._open(self._disturbed)
        return None

    # What a run does: a script yields (fault, job) and is sent the child that has finished it.

    def _peace(self, run: Run) -> Iterator[Any]:
        """Nothing disturbs this run. Once finished it is started again: that may change nothing."""
        run.compiled.mkdir()
        times = []
        for _ in range(2):
            child = yield None, self._train(run)
            if not self._right(run, child):
                return
            times += [*child.times, ("", time.monotonic())]
            yield None, self._read_end(run)
            self._compare(run)
        for (phase, begun), (_, ended) in itertools.pairwise(times):
            longer = 3 if phase == "save" else 1  # it goes on in the background
            self.usual.setdefault(phase, []).append(longer * (ended - begun))
        shutil.copytree(run.compiled, self.folder / "compiled")

    def _disturbed(self, run: Run) -> Iterator[Any]:
        """This run has faults until it is finished or has had its share of them."""
        shutil.copytree(self.folder / "compiled", run.compiled)
        while True:
            fault = self._draw(run)
            run.attempts += 1
            if fault and fault.phase == "compile":  # a cached program would be there at once
                shutil.rmtree(run.compiled)
                run.compiled.mkdir()
            child = yield fault, self._train(run)
            if not self._right(run, child):
                return
            # With no room to the end a run is saved but has no report: it is made in peace.
            if child.code == 0 and not (child.struck and fault.kind == "disk full to the end"):
                break
        yield None, self._read_end(run)
        self._compare(run)
        self.compared += 1

    def _train(self, run: Run) -> Callable[[int], int]:
        argv = [*self.argv, f"--workdir={run.workdir}"]
        return functools.partial(self.work.attempt, argv, log=run.log, compiled=run.compiled)

    def _read_end(self, run: Run) -> Callable[[int], int]:
        target = run.folder / "end.json"
        return functools.partial(self.work.read_end, run.workdir, self.last, target)

    def _draw(self, run: Run) -> Any:
        if run.faults == FAULTS_OF_A_RUN or self.planned >= self.options.kills:
            return None
        run.faults += 1
        self.planned += 1
        return self.faults.Fault.drawn(f"{self.options.seed} {run.number} {run.attempts}")

    # What must hold.

    def _right(self, run: Run, child: Child) -> bool:
        """Takes note of an attempt; returns whether the run may go on."""
        fault, complete = child.fault, self.last in self.faults.saved_steps(run.workdir)
        resumed = child.first_step
        if resumed is None and {"save", "report", "end"} & child.seen.keys():
            resumed = self.last  # nothing was left to step
        if resumed is not None:
            for outcome in run.pending:
                outcome.again = max(0, outcome.steps - resumed)
                self._say(run, str(outcome), self.faults.lost(outcome, self.every))
            run.pending.clear()
        if child.struck is None:
            self.planned -= fault is not None  # it ended before; another one is drawn for it
            self._say(
                run, f"attempt {run.attempts}", self.faults.wrong_exit(None, child.code, complete)
            )
            return not run.wrong
        outcome = self.faults.Outcome(
            fault=fault,
            run=run.number,
            attempt=run.attempts,
            phase=child.struck_in,
            code=child.code,
            seconds=time.monotonic() - child.struck,
            steps=child.steps,
        )
        run.pending.append(outcome)
        self.outcomes.append(outcome)
        self._say(run, str(outcome), self.faults.wrong_exit(fault.kind, child.code, complete))
        return not run.wrong

    def _compare(self, run: Run) -> None:
        path = run.folder / "end.json"
        if not path.exists():
            self._say(run, "its end", "cannot be read")
            return
        found = json.loads(path.read_text())
        path.unlink()
        self.undisturbed = self.undisturbed or found
        lines = self.work.differences(found, self.undisturbed)
        shown = "\n  ".join([f"{len(lines)} differences", *lines[:10]])
        self._say(run, "its end", shown if lines else None)

    def _say(self, run: Run, what: str, wrong: str | None) -> None:
        if wrong:
            run.wrong = True
            self.wrong.append(f"run {run.number}: {what}: {wrong}; see {run.folder / 'kept'}")
            print(f"WRONG: {self.wrong[-1]}", file=sys.stderr, flush=True)

    # Processes.

    def _open(self, script: Callable[[Run], Iterator[Any]]) -> None:
        run = Run(self.made, self.folder, self.disk)
        run.script = script(run)
        self.made += 1
        self.runs.append(run)

    def _next(self, run: Run) -> Callable[[], int] | None:
        """Goes on with a run; in the child that is forked for it, returns the job."""
        try:
            fault, job = run.script.send(run.child)
        except StopIteration:
            run.close()
            self.runs.remove(run)
            return None
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            return functools.partial(job, write)
        os.close(write)
        os.set_blocking(read, False)
        now = time.monotonic()
        run.child = Child(pid=pid, pipe=read, fault=fault, began=now, times=[("start", now)])
        if fault:
            saved = max(self.faults.saved_steps(run.workdir), default=0)
            times = self.faults.occurrences(self.config, saved).get(fault.phase, 1)
            run.child.occurrence = 1 + int(fault.occurrence**3 * times)  # more of the early ones
            self._plan(run.child)
        return None

    def _plan(self, child: Child) -> None:
        """Says when the fault is due, if the child has just reached its place."""
        fault = child.fault
        if fault is None or child.due or child.struck:
            return
        seen = child.seen.get(child.phase, 1)
        here = child.phase == fault.phase and seen == child.occurrence
        if here or child.phase == "end":  # the last chance
            usual = self.usual[child.phase]
            child.due = time.monotonic() + fault.moment * usual[min(seen, len(usual)) - 1]

    def _wait(self) -> None:
        """Waits for news or the next moment, strikes, and takes note of who has ended."""
        working = [run for run in self.runs if run.child is not None and run.child.code is None]
        dues = [run.child.due for run in working if run.child.due is not None]
        rest = min([0.1, *(max(0.0, due - time.monotonic()) for due in dues)])
        pipes = {run.child.pipe: run for run in working if run.child.pipe >= 0}
        for pipe in select.select(list(pipes), [], [], rest)[0]:
            self._read(pipes[pipe].child)
        for run in working:
            child = run.child
            if child.due is not None and time.monotonic() >= child.due:
                self._strike(run, child)
            self._end_hanging(run, child)
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._read(child)
                code = os.waitstatus_to_exitcode(status)
                child.code = code if code >= 0 else 128 - code
                run.disk.free(child.pid)
                if child.pipe >= 0:
                    os.close(child.pipe)

    def _read(self, child: Child) -> None:
        try:
            data = os.read(child.pipe, 1 << 16) if child.pipe >= 0 else b""
        except BlockingIOError:
            return
        if not data and child.pipe >= 0:
            os.close(child.pipe)
            child.pipe = -1
        *lines, child.rest = (child.rest + data).split(b"\n")
        for line in lines:
            child.phase, steps = line.decode().split()
            child.steps = int(steps)
            child.seen[child.phase] = child.seen.get(child.phase, 0) + 1
            child.times.append((child.phase, time.monotonic()))
            if child.phase == "step" and child.first_step is None:
                child.first_step = child.steps
            self._plan(child)

    def _strike(self, run: Run, child: Child) -> None:
        fault, child.due = child.fault, None
        again = child.struck is not None
        if not again:
            child.struck, child.struck_in = time.monotonic(), child.phase
            if list(run.workdir.glob("checkpoints/*tmp*")):
                child.struck_in = "save"
        if fault.kind.startswith("SIG"):
            os.kill(child.pid, getattr(signal, fault.kind.split()[0]))
        elif again:
            run.disk.free(child.pid)
        else:
            run.disk.fill(child.pid)
        if not again and fault.kind in ("SIGTERM twice", "disk full a while"):
            child.due = time.monotonic() + fault.length

    def _end_hanging(self, run: Run, child: Child) -> None:
        signalled = child.struck is not None and child.fault.kind.startswith("SIG")
        since = child.struck if signalled else child.began
        if time.monotonic() - since < (self.options.grace if signalled else PATIENCE):
            return
        self._say(run, f"attempt {run.attempts}", f"hangs after {child.struck_in or child.phase}")
        os.kill(child.pid, signal.SIGABRT)  # the stacks of its threads go to the log
        time.sleep(1)
        os.kill(child.pid, signal.SIGKILL)

    def _tell(self) -> None:
        now, done = time.monotonic(), len(self.outcomes)
        if now - self.told < 10:
            return
        self.told = now
        left = (now - self.began) * (self.options.kills - done) / max(1, done)
        print(
            f"{done}/{self.options.kills} faults | {self.compared} runs compared | "
            f"{len(self.wrong)} wrong | {now - self.began:.0f} s, about {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code. Forked children do their job and end here."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30, help="faults in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    parser.add_argument(
        "--config", default=f"{ROOT}/tests/chaos_config.py", help="FILE.py:ARGUMENT of a tiny run"
    )
    parser.add_argument("--grace", type=float, default=60, help="seconds from a signal to the exit")
    parser.add_argument(
        "--disk", choices=("auto", "tmpfs", "limit"), default="auto", help="how disks are filled"
    )
    from tools import chaos_disks

    options, options.overrides = parser.parse_known_args(arguments)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="chaos-"))
    disk = chaos_disks.choose(options.disk, folder)
    chaos, parent = Chaos(options, folder, disk), os.getpid()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left behind
    try:
        job = chaos.go()
    finally:
        if os.getpid() == parent:
            for run in chaos.runs:
                run.close()
    if job is not None:
        return job()
    print(f"--kills={options.kills} --seed={options.seed}; a full disk is {disk.name}")
    print(chaos.faults.table(chaos.outcomes))
    print(
        f"{len(chaos.outcomes)} faults, {chaos.compared} runs compared, {len(chaos.wrong)} wrong, "
        f"{(time.monotonic() - chaos.began) / 60:.0f} minutes"
    )
    print("\n".join(chaos.wrong), end="\n" if chaos.wrong else "")
    if not chaos.wrong:
        shutil.rmtree(folder)
    return 1 if chaos.wrong else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "OPENBLAS_NUM_THREADS": "1"}
    os.environ |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_ENABLE_COMPILATION_CACHE": "1"}
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    from unified_fm.runtime import huge_pages

    huge_pages.restart()  # here, once: a fork that did so would start this tool, not its attempt
    sys.exit(main(sys.argv[1:]))
