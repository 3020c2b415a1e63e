"""What a process of `tools/chaos.py` does: one attempt at the training, or reading its end.

An attempt is the command of `unified_fm.main`, unchanged, but that it tells a pipe which phase it
has reached, at the borders of a few public functions, so that faults can be spread over all phases.
"""

import faulthandler
import functools
import hashlib
import json
import os
import pathlib
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from unified_fm import evaluation, main, rules
from unified_fm.checkpoint import store
from unified_fm.runtime import interruption

# A call of the function is the phase; of the last two, it begins there and lasts.
CALLS = [
    (jax.stages.Lowered, "compile", "compile"),
    (store.Checkpoints, "restore", "restore"),
    (store.Checkpoints, "save", "save"),
    (evaluation.Evaluation, "run", "evaluation"),
    (evaluation.Evaluation, "write_report", "report"),
]
BEGINNINGS = [(interruption.Interruption, "requested", "step"), (store.Checkpoints, "close", "end")]
PHASES = ("start", "restore", "compile", "step", "save", "evaluation", "report", "end")

# The fields of metrics.jsonl that tell the time, which no two runs share.
TIMES = ("samples_per_second", "data_wait")
TIME = "time/"  # and those that begin so
# What a fault may leave: what happened.
ACCOUNTS = {"error.txt", "stacks.txt"}


def attempt(argv: Sequence[str], pipe: int, *, log: pathlib.Path, compiled: pathlib.Path) -> int:
    """Runs the command in this process, which was forked for it, and ends as the command does.

    Args:
        argv: the command line, the program's name first.
        pipe: where lines "PHASE STEPS" are written; STEPS is the number of steps made.
        log: what standard output and standard error are appended to.
        compiled: the cache of compiled programs.
    """
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    os.setpgid(0, 0)  # Ctrl-C on the tool is no fault of this run
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.enable()
    lines = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(lines, 1)
    os.dup2(lines, 2)
    _tell_phases(pipe)
    sys.argv = list(argv)
    runpy.run_path(main.__file__, run_name="__main__")
    raise AssertionError("the command ends its process by itself")


def _tell_phases(pipe: int) -> None:
    now = {"phase": "start", "steps": 0}

    def tell(phase: str) -> None:
        now["phase"] = phase
        os.write(pipe, f"{phase} {now['steps']}\n".encode())

    def call(function: Callable, phase: str) -> Callable:
        @functools.wraps(function)
        def told(*args: Any, **options: Any) -> Any:
            before = now["phase"]
            tell(phase)
            try:
                return function(*args, **options)
            finally:
                tell(before)

        return told

    def beginning(function: Callable, phase: str) -> Callable:
        @functools.wraps(function)
        def told(*args: Any, **options: Any) -> Any:
            if phase == "step":
                now["steps"] = int(args[1])
            tell(phase)
            return function(*args, **options)

        return told

    for wrap, places in ((call, CALLS), (beginning, BEGINNINGS)):
        for owner, name, phase in places:
            setattr(owner, name, wrap(getattr(owner, name), phase))


def read_end(workdir: pathlib.Path, step: int, target: pathlib.Path, pipe: int) -> int:
    """Writes what a finished run came to, as JSON: a hash of every array, and the log's lines.

    Orbax reads the arrays here, not the library, so that its own checks are not trusted.

    Args:
        workdir: of the run.
        step: the last.
        target: the JSON file.
        pipe: not used.
    """
    del pipe
    saved = workdir / "checkpoints" / str(step)
    found = {}
    with ocp.StandardCheckpointer() as reader:
        for item in ("params", "train"):
            for name, leaf in rules.named_leaves(reader.restore((saved / item).absolute())):
                array = np.asarray(leaf)
                text = f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
                found[f"{item}: {name}"] = text
    for item in ("position", "config"):
        found[item] = (saved / item / "metadata").read_text()
    for number, line in enumerate((workdir / "metrics.jsonl").read_text().splitlines(), 1):
        values = {
            key: value
            for key, value in json.loads(line).items()
            if key not in TIMES and not key.startswith(TIME)
        }
        found[f"metrics.jsonl:{number}"] = json.dumps(values)
    found["files"] = " ".join(sorted({p.name for p in workdir.iterdir()} - ACCOUNTS))
    found["unfinished saves"] = " ".join(p.name for p in (workdir / "checkpoints").glob("*tmp*"))
    target.write_text(json.dumps(found, indent=1))
    return 0


def differences(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Says where two ends differ; empty if they are the same bit for bit."""
    names = [name for name in wanted | found if found.get(name) != wanted.get(name)]
    return [f"{name}: {found.get(name)}, undisturbed {wanted.get(name)}" for name in names]


def prepare(argv: Sequence[str]) -> dict[str, Any]:
    """Imports what an attempt imports, so that forked ones need not; returns the config.

    Raises:
        SystemExit: the command cannot work.
    """
    from matplotlib.backends import backend_svg  # noqa: F401

    from unified_fm import train  # noqa: F401

    try:
        _, config = main.parse(argv)
    except main.Refused as refusal:
        raise SystemExit(f"refused: {refusal}") from None
    if len(os.listdir("/proc/self/task")) > 1:
        print("warning: this process has threads of its own, which forks lack", file=sys.stderr)
    return config
