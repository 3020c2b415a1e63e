"""The data doctor: reads a source once, as a run would, and says what is wrong with it."""

import contextlib
import dataclasses
import hashlib
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unified_fm import files
from unified_fm.data import identity
from unified_fm.doctor import against, page, pool, remarks, summary
from unified_fm.doctor.findings import Findings
from unified_fm.doctor.reading import Job, Reading
from unified_fm.doctor.remarks import Remark

_VERSION = 2  # of what a state holds
_STATES = ("check.state.npz", "against.state.npz")  # of the source, and of the other one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a check comes to.

    Attributes:
        made: the numbers, as in check.json.
        remarks: the most serious first.
        verdict: in a sentence.
        status: 0 fine, 1 something would stop or mar a run.
    """

    made: Mapping[str, Any]
    remarks: list[Remark]
    verdict: str
    status: int


def check(
    job: Job,
    out: Path,
    *,
    processes: int,
    lengths: bool,
    configured: bool,
    speed: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda made: {},
    other: Job | None = None,
    quiet: bool = False,
) -> Outcome:
    """Reads everything, and writes check.json and check.html into a folder.

    A call that was interrupted has left check.state.npz there, with which the next one goes on; and
    against.state.npz of the other source, whose pictures it has in common are in against.jsonl.

    Args:
        job: what to read, and as what.
        out: the folder.
        processes: that read; 0: this one.
        lengths: whether the job's tokenizer is that of the run.
        configured: whether the stream is of a config.
        speed: more lines about speed, from the numbers; "speed" in check.json.
        other: a source, whose pictures are looked for in this one.
        quiet: says nothing on standard error.

    Raises:
        ValueError, TypeError, OSError: the source cannot be opened; a run would be refused, too.
        Stopped: Ctrl-C or SIGTERM; the state is written. A second one ends it at once.
    """
    readings = [Reading(each) for each in (job, other) if each is not None]
    out.mkdir(parents=True, exist_ok=True)
    found = _read(readings, out, processes, quiet)
    reading = readings[0]
    made = summary.of(reading, found[0], lengths=lengths, configured=configured)
    made["speed"] |= speed(made)
    if other is not None:
        made["against"] = _compared(readings, found, out / "against.jsonl")
    said = remarks.of(made, job.entry.max_skip)
    verdict, status = remarks.verdict(said)
    plain = {
        **made,
        "remarks": [dataclasses.asdict(remark) for remark in said],
        "verdict": verdict,
        "status": status,
    }
    text = json.dumps(plain, indent=1, ensure_ascii=False)
    files.write_whole(out / "check.json", text.encode("utf-8", "backslashreplace") + b"\n")
    page.write(out / "check.html", made, said, (verdict, status), reading)
    for state in _STATES:
        (out / state).unlink(missing_ok=True)
    return Outcome(made=made, remarks=said, verdict=verdict, status=status)


def lines(outcome: Outcome) -> list[str]:
    """An outcome for the terminal: counts, remarks, verdict."""
    records, stream = outcome.made["records"], outcome.made["stream"]
    said = [
        f"{outcome.made['source']} as stream {stream['name']!r} ({stream['pipeline']}):"
        f" {records['read']:,} records read, {records['used']:,} used,"
        f" {records['skipped']:,} skipped"
        + (f", {records['failed']:,} end a run" if records["failed"] else "")
    ]
    for table, mark in (("failed", ""), ("skipped", ""), ("parts", "(part) ")):
        reasons = outcome.made[table]["dropped"] if table == "parts" else outcome.made[table]
        for reason, entry in reasons.items():
            first = entry["records"][0]
            named = first["place"] or f"record {first['record']}"
            named += f", image {first['image']}" if first["image"] else ""
            named += f" ({first['detail']})" if first["detail"] else ""
            said.append(f"  {entry['count']:>8,}  {mark}{reason}; the first: {named}")
    for remark in outcome.remarks:
        said.append(f"{remark.level}: {remark.says}" + (f"; {remark.do}" if remark.do else ""))
    return [*said, outcome.verdict]


def _read(readings: Sequence[Reading], out: Path, processes: int, quiet: bool) -> list[Findings]:
    """Reads one after the other; see `check`."""
    with _signals() as stop:
        return [
            pool.read_all(
                reading,
                _fingerprint(reading),
                processes=processes,
                state=out / state,
                say=_silent if quiet else pool.Progress(reading.job.stream),
                stop=stop,
            )
            for reading, state in zip(readings, _STATES, strict=False)
        ]


def _compared(readings: Sequence[Reading], found: Sequence[Findings], file: Path) -> dict[str, Any]:
    """The section "against" of check.json, of two sources; all pictures of both go into a file."""
    shared = against.of(readings[0], found[0], readings[1], found[1])
    lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in shared)
    files.write_whole(file, lines.encode("utf-8", "backslashreplace"))
    return against.summed(shared, summary.joined(readings[1].job.entry.source), *found)


def _fingerprint(reading: Reading) -> dict[str, Any]:
    """What tells this check from one of other data or settings."""
    job = reading.job
    return {
        "version": _VERSION,
        "stream": job.stream,
        "entry": json.loads(json.dumps(dataclasses.asdict(job.entry), default=repr)),
        "seed": job.seed,
        "tokenizer": hashlib.sha256(reading.tokenizer.text().encode()).hexdigest()[:16],
        "records": reading.records,
        "data": identity.of_source(reading.source),
    }


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM has come; a second one is not waited with."""
    came = []

    def note(number: int, frame: Any) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # nobody sends one here
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _silent(done: int, of: int) -> None:
    del done, of
