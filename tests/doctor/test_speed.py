"""How fast a source is read and how long an epoch takes: every number against one made by hand."""

import json
import types

import pytest

from unified_fm.bench import flops
from unified_fm.commands import _doctor
from unified_fm.data.streams import stream
from unified_fm.doctor import choosing, reading, summary
from unified_fm.doctor.findings import Findings


def test_records_a_second_and_hours_of_an_epoch():
    loader = types.SimpleNamespace(records=36_050, slots=96)
    found = Findings()
    found.add("records", "read", 1000)
    found.seconds |= {"cpu": 2.0, "wall": 5.0}
    assert summary._speed(types.SimpleNamespace(loader=loader), found) == {
        "records a second of one core": 500.0,  # 1000 / 2
        "records a second of one process, waiting included": 200.0,  # 1000 / 5
        "hours of one core for an epoch": 0.02,  # 36,050 x 2 / 1000 / 3600 = 0.0200
        "records": 36_050,
        "records of a batch": 96,
        "batches of an epoch": 375,  # 375.5
    }


def test_hours_on_cores_and_chips():
    speed = {
        "records a second of one core": 500.0,
        "hours of one core for an epoch": 0.02,
        "records of a batch": 96,
        "batches of an epoch": 375,
    }
    assert _doctor.on_cores(speed, 1) == {}
    assert _doctor.on_cores(speed, 3) == {"hours of 3 cores for an epoch": 0.00667}
    assert _doctor.on_chips(speed, 0.24) == {
        "seconds of a step": 0.24,
        "hours for an epoch": 0.025,  # 375 x 0.24 / 3600
        "cores that keep up with this stream": 0.8,  # 96 / 0.24 a second, of 500
    }


def test_seconds_of_a_step(monkeypatch):
    """v5e: 197e12 a second by its data sheet, of which 40 % are reached."""
    counted = {"text": flops.Flops(official=9e20, shared=9e20, necessary=1.5e14),
               "pairs": flops.Flops(official=9e20, shared=9e20, necessary=0.076e14)}  # fmt: skip
    monkeypatch.setattr(flops, "of_step", lambda settings: counted)
    step = _doctor.seconds_of_step(None, 8, "v5e")
    assert step == pytest.approx(1.576e14 / (8 * 197e12 * 0.4)) == pytest.approx(0.25)


def test_only_what_the_run_needs_is_counted_as_its_time(tmp_path, monkeypatch):
    """A record takes the loader 2 s, of which 1 s of the processor; to measure it the same again,
    and all of that of the processor: 3/4 of the time is the processor's, in both."""
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": f"a {k}"}) for k in range(9)))
    streams = {"text": stream("text", "", 4, max_len=12)}
    job = choosing.job_of(f"jsonl:{tmp_path}/a.jsonl", streams, stream="text")
    opened = reading.Reading(job)
    wall, cpu = [0.0], [0.0]
    clocks = {"perf_counter": lambda: wall[0], "thread_time": lambda: cpu[0]}
    monkeypatch.setattr(reading, "time", types.SimpleNamespace(**clocks))
    load, measure = opened.loader.load, opened._measure

    def loads(*about):
        wall[0], cpu[0] = wall[0] + 2, cpu[0] + 1
        return load(*about)

    def measures(*about):
        wall[0], cpu[0] = wall[0] + 2, cpu[0] + 2
        return measure(*about)

    monkeypatch.setattr(opened.loader, "load", loads)
    monkeypatch.setattr(opened, "_measure", measures)
    found = opened.read(0, 9)
    assert found.seconds == {"wall": 18.0, "cpu": 13.5}  # 9 x 2; 27 of 36 s, of 18 s
