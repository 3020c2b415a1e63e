"""The data doctor: reads a source once, as a run would, and says what is wrong with it."""

import contextlib
import dataclasses
import hashlib
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unified_fm import files
from unified_fm.data import identity
from unified_fm.doctor import page, pool, remarks, summary
from unified_fm.doctor.reading import Job, Reading
from unified_fm.doctor.remarks import Remark

_VERSION = 2  # of what a state holds


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
    quiet: bool = False,
) -> Outcome:
    """Reads everything, and writes check.json and check.html into a folder.

    A call that was interrupted has left check.state.npz there, with which the next one goes on.

    Args:
        job: what to read, and as what.
        out: the folder.
        processes: that read; 0: this one.
        lengths: whether the job's tokenizer is that of the run.
        configured: whether the stream is of a config.
        speed: more lines about speed, from the numbers; "speed" in check.json.
        quiet: says nothing on standard error.

    Raises:
        ValueError, TypeError, OSError: the source cannot be opened; a run would be refused, too.
        Stopped: Ctrl-C or SIGTERM; the state is written. A second one ends it at once.
    """
    reading = Reading(job)
    out.mkdir(parents=True, exist_ok=True)
    state = out / "check.state.npz"
    with _signals() as stop:
        found = pool.read_all(
            reading,
            _fingerprint(reading),
            processes=processes,
            state=state,
            say=_silent if quiet else pool.Progress(job.stream),
            stop=stop,
        )
    made = summary.of(reading, found, lengths=lengths, configured=configured)
    made["speed"] |= speed(made)
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
    state.unlink(missing_ok=True)
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
