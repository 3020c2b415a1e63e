"""Where the time of a step goes: a trace of the profiler, and the operations that took longest."""

import collections
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

TOP = 20
_AROUND = ("while", "call", "conditional")  # their bodies are counted by themselves


def recorded(run: Callable[[], object], folder: str, steps: int = 3) -> list[str]:
    """Traces so many calls of `run`; returns the lines to print.

    The trace is written below `folder` (`plugins/profile/...`), for XProf, TensorBoard or Perfetto.

    Raises:
        ValueError: no trace can be written there.
    """
    try:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            for _ in range(steps):
                run()
    except OSError as error:
        raise ValueError(f"--trace={folder}: {error}") from error
    files = sorted(pathlib.Path(folder).rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    return [f"trace         {files[-1].parent}, {steps} steps", *table(files[-1], steps)]


def table(file: pathlib.Path, steps: int) -> list[str]:
    """The operations of a trace that took longest, with ms a step and their share of all.

    Of a GPU these are kernels, on one stream or several; of a CPU what XLA ran, in all threads.
    """
    taken: dict[str, float] = collections.defaultdict(float)
    counts: collections.Counter[str] = collections.Counter()
    for name, nanoseconds in _operations(jax.profiler.ProfileData.from_file(str(file))):
        taken[name] += nanoseconds
        counts[name] += 1
    whole = sum(taken.values())
    longest = sorted(taken, key=lambda name: taken[name], reverse=True)[:TOP]
    return [
        f"  {taken[name] / steps / 1e6:9.3f} ms {taken[name] / whole:6.1%}"
        f" {counts[name] / steps:7.1f} x {name[:100]}"
        for name in longest
    ]


def _operations(data: Any) -> Iterator[tuple[str, float]]:
    """(name, nanoseconds) of every operation on the devices."""
    planes = [plane for plane in data.planes if plane.name.startswith("/device:")]
    if planes:
        for plane in planes:
            lines = list(plane.lines)
            # Beside the streams stand summaries of the same operations.
            streams = [line for line in lines if line.name.startswith("Stream")]
            for line in streams or [line for line in lines if line.name == "XLA Ops"]:
                for event in line.events:
                    yield event.name, event.duration_ns
        return
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                if not event.duration_ns or event.name.startswith(_AROUND):
                    continue
                if any(key == "hlo_op" for key, _ in event.stats):
                    yield event.name, event.duration_ns
