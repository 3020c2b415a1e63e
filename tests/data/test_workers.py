"""The loader's processes: the same batches as from threads, and what their faults come to."""

import collections
import contextlib
import json
import os
import re
import signal
import struct
import threading
import time
import types
from multiprocessing import connection

import numpy as np
import pytest

from tests.data import test_streams
from unified_fm.data import worker, worker_process, workers
from unified_fm.data.batching import Part
from unified_fm.data.streams import Streams, stream
from unified_fm.data.worker_process import WorkerProcess
from unified_fm.data.workers import WorkerFailed

take, assert_same = test_streams.take, test_streams.assert_same
BIG = {"size": 224, "patch_size": 16, "num_masked": 75}


def open_streams(configs=test_streams.FOUR, **options):
    return test_streams.open_streams(configs, **options)


def texts(fault, folder):
    return {"text": stream("text", f"tests.data.dying:{fault},{folder}", 12, max_len=24)}


def gone(pid):
    """Whether a process ends within ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_row_10_threads_hand_over_to_processes_and_back(tmp_path):
    """Augmentation is on; every array of every step is that of the undisturbed run."""
    bad = open_streams().loaders["text"].index_of(20)  # met when processes read
    file = tmp_path / "texts.jsonl"
    lines = [json.dumps({"text": "" if k == bad else f"text {k}"}) for k in range(50)]
    file.write_text("\n".join(lines))
    configs = test_streams.FOUR | {"text": stream("text", f"jsonl:{file}", 8, max_len=24)}
    whole = open_streams(configs)
    undisturbed = take(whole, 9)
    whole.close()
    state, taken = None, []
    for processes, steps in ((0, 2), (2, 5), (0, 2)):
        streams = open_streams(configs, processes=processes)
        if state:
            streams.restore(state)
        taken += take(streams, steps)
        state = json.loads(json.dumps(streams.state()))
        if processes:
            assert streams.skip_lines()["text"].endswith("1 skipped (1 empty text)")
            pids = streams.start().source.pids
        streams.close()
    assert_same(taken, undisturbed)
    assert len(pids) == 2 and all(map(gone, pids))


@pytest.mark.slow
def test_row_10_other_hosts_and_processes_for_threads_at_once_make_the_same_groups():
    """Regions of two sources, in groups, whose rows name images of their own group."""
    sources = {"source": ["synthetic:regions:20", "synthetic:regions:31"], "weights": [2, 1]}
    sizes = {"batch_size": 24, "images": 12, "groups": 6}  # for three hosts and for two
    regions = {"regions": test_streams.FOUR["regions"] | sources | sizes}
    alone = open_streams(regions)
    undisturbed = [(*take(alone, 1), alone.last_records()["regions"]) for _ in range(10)]
    alone.close()
    state, step = None, 0
    for hosts, processes, steps in ((3, 0, 3), (2, 1, 3), (1, 1, 2), (1, 0, 2)):
        running = [
            open_streams(regions, part=Part((host,), hosts), processes=processes)
            for host in range(hosts)
        ]
        for streams in running:
            if state is not None:
                streams.restore(json.loads(json.dumps(state)))
        for _ in range(steps):
            taken = [next(streams)["regions"] for streams in running]
            joined = {key: np.concatenate([each[key] for each in taken]) for key in taken[0]}
            whole, records = undisturbed[step]
            assert_same([{"regions": joined}], [whole])
            numbers = [number for each in running for number in each.last_records()["regions"]]
            assert numbers == records
            step += 1
        state = running[0].state()
        for streams in running:
            assert streams.state() == state
            streams.close()
    assert step == len(undisturbed)
    assert {*undisturbed[0][0]["regions"]["image_index"]} == {0, 1}
    assert {n >= 20 for n in undisturbed[0][1]} == {True, False}  # of both


def test_row_26_an_error_in_a_process_reaches_the_loop(tmp_path):
    streams = open_streams(texts("raise", tmp_path), processes=1)
    for _ in range(2):  # and again, instead of hanging
        with pytest.raises(ZeroDivisionError, match="a bug") as caught:
            take(streams, 6)
        of_record, of_process = caught.value.__notes__
        assert "in stream 'text', record 7 of tests.data.dying" in of_record
        assert "worker process" in of_process and "in _fail" in of_process
    streams.close()


@pytest.mark.slow
def test_row_15_what_processes_skip_is_named_counted_and_judged_by_the_run(tmp_path, caplog):
    streams = open_streams(texts("skip", tmp_path), processes=2)
    taken = take(streams, 5)  # an epoch
    streams.close()
    assert f"skips record 7 of tests.data.dying:skip,{tmp_path}: a bad one: number" in caplog.text
    assert "end of epoch 1: 59 used, 1 skipped (1 a bad one)" in caplog.text
    by_threads = open_streams(texts("skip", tmp_path))
    assert_same(taken, take(by_threads, 5))
    by_threads.close()
    strict = {"text": texts("skip", tmp_path)["text"] | {"max_skip": 0.0}}
    streams = open_streams(strict, processes=1)
    with pytest.raises(test_streams.TooManySkips, match="max_skip=0 allows"):
        take(streams, 6)
    streams.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SIGKILL", "SIGSEGV", "SIGSTOP"])
def test_row_26_a_process_that_dies_or_hangs_is_named_and_its_work_made_again(kind, caplog):
    streams = open_streams(processes=2, patience=3.0)
    taken = take(streams, 2)
    while not streams.start().source.ready:  # one that opens its sources has more patience
        taken += take(streams, 1)
    pid = streams.start().source.pids[1]
    os.kill(pid, signal.Signals[kind])
    struck = time.monotonic()
    while f"(process {pid})" not in caplog.text:
        taken += take(streams, 1)
    assert time.monotonic() - struck < 10 and gone(pid)
    said = {
        "SIGKILL": "was ended by SIGKILL",
        "SIGSEGV": "was ended by SIGSEGV",
        "SIGSTOP": "has not got on for 3 s",
    }
    assert f"(process {pid}) {said[kind]}" in caplog.text
    assert "another one takes its place" in caplog.text
    taken += take(streams, 3)
    streams.close()
    assert_same(taken, take(open_streams(), len(taken)))


@pytest.mark.slow
def test_row_26_a_process_that_hangs_is_named_long_before_it_is_ended(caplog):
    """With the patience of a run that says nothing of it; it is not ended, and goes on."""
    streams = open_streams(processes=2)
    taken = take(streams, 2)
    while not streams.start().source.ready:
        taken += take(streams, 1)
    pid = streams.start().source.pids[1]
    os.kill(pid, signal.SIGSTOP)
    struck, named = time.monotonic(), []

    def watch():
        while time.monotonic() - struck < 60 and f"(process {pid})" not in caplog.text:
            time.sleep(0.05)
        named.append(time.monotonic() - struck)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    watching = threading.Thread(target=watch)
    watching.start()
    while watching.is_alive():
        taken += take(streams, 1)
    assert named[0] < 10
    taken += take(streams, 3)
    if "says no more" in caplog.text:  # stopped while it was answering: another one takes its place
        assert gone(pid)
    else:
        said = rf"\(process {pid}\) has not got on for 7 s at stream '\w+', record \d+ of .*"
        assert len(re.findall(f"{said}after 120 s another", caplog.text)) == 1
        assert streams.start().source.pids[1] == pid
    streams.close()
    assert_same(taken, take(open_streams(), len(taken)))


def test_row_26_a_slow_process_is_named_once(monkeypatch, caplog):
    """Processes of a made-up clock: what is said, when, and how often."""
    monkeypatch.setattr(workers, "WorkerProcess", lambda *about: None)
    monkeypatch.setattr(workers.connection, "wait", lambda lines, timeout: [])
    loaders = open_streams().loaders
    options = {"starts": dict.fromkeys(loaders, 0), "patience": 120.0}
    made = workers.Workers(loaders, processes=2, stop=threading.Event(), **options)
    clock, progress = [100.0], [(0, 0)]
    monkeypatch.setattr(worker_process.time, "monotonic", lambda: clock[0])
    slow = object.__new__(WorkerProcess)
    slow.number, slow.ready, slow.tasks, slow.line = 1, False, collections.deque(), None
    slow.process = types.SimpleNamespace(pid=9)
    slow._seen, slow._read_progress = (0, 0), lambda: progress[0]
    slow._gets_on()
    made._workers = [slow]

    def said(seconds):
        clock[0] += seconds
        made._look()
        lines = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return lines

    who = "worker 1 of the loader (process 9) has not got on for "
    assert said(6.9) == []
    assert said(0.2) == [f"{who}7 s before it was ready; after 600 s another one takes its place"]
    assert said(90.0) == []
    slow.start()
    slow.tasks.append(worker_process.Task(0, "text", [3, 4]))
    assert said(6.9) == []
    record = loaders["text"].index_of(3)
    text = f"{who}7 s at stream 'text', record {record} of synthetic:text:50; after 120 s another"
    assert said(0.2) == [f"{text} one takes its place"] and said(90.0) == []
    progress[0] = (0, 1)  # it gets on, and is slow again
    assert said(50.0) == [] and said(6.9) == [] and len(said(0.2)) == 1
    made._opening = 100.0  # what opening may take is not slow
    slow.ready, slow.tasks = False, collections.deque()
    slow._gets_on()
    assert said(99.0) == [] and len(said(2.0)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"), [("kill-once", "was ended by SIGKILL"), ("hang-once", "has not got on")]
)
def test_row_26_a_record_at_which_a_process_failed_is_read_again(fault, said, tmp_path, caplog):
    streams = open_streams(texts(fault, tmp_path), processes=2, patience=2.0)
    taken = take(streams, 6)
    streams.close()
    assert said in caplog.text and "at stream 'text', record 7 of tests.data" in caplog.text
    assert_same(taken, take(open_streams(texts("kill-once", tmp_path)), 6))


@pytest.mark.slow
def test_row_26_a_record_that_ends_two_processes_ends_the_run_and_is_named(tmp_path):
    streams = open_streams(texts("kill", tmp_path), processes=2)
    began = time.monotonic()
    with pytest.raises(WorkerFailed) as caught:
        take(streams, 6)
    assert time.monotonic() - began < 30
    message = str(caught.value)
    assert "was ended by SIGKILL at stream 'text', record 7 of tests.data.dying:kill" in message
    assert "as one before it" in message and "loader.processes=0" in message
    streams.close()


@pytest.mark.slow
def test_a_process_that_cannot_open_the_source_says_why(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"text {k}"}) for k in range(20)))
    configs = {"text": stream("text", f"jsonl:{file}", 4, max_len=24)}
    fewer = open_streams(configs, processes=1)
    file.write_text(json.dumps({"text": "alone"}))
    with pytest.raises(RuntimeError, match=r"finds 1 records in the source .* has found 20"):
        take(fewer, 1)
    none = open_streams({"text": stream("text", "synthetic:text", 4, max_len=24)}, processes=1)
    none.loaders["text"].entry.__dict__["source"] = f"jsonl:{tmp_path}/gone.jsonl"
    with pytest.raises(FileNotFoundError, match=r"gone\.jsonl"):
        take(none, 1)
    for streams in (fewer, none):
        streams.close()


def test_row_26_a_process_that_stops_in_the_middle_of_an_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(worker_process, "_MESSAGE", 1)
    half = object.__new__(WorkerProcess)
    half.socket, theirs = worker_process._pair()
    half.line = connection.Connection(os.dup(half.socket.fileno()))
    theirs.send(struct.pack("!i", 100) + b"the rest of this never comes")
    assert half.read() is None
    half.line.close()
    half.socket.close()


def test_workers_have_the_time_to_open_what_the_run_has_opened(monkeypatch):
    monkeypatch.setattr(workers, "WorkerProcess", lambda *about: None)
    loaders = open_streams().loaders
    options = {"starts": dict.fromkeys(loaders, 0), "patience": 9.0, "stop": None}
    made = workers.Workers(loaders, processes=3, **options)
    assert made._start_patience == 600
    loaders["text"].opening = 1000.0  # of a split by hash, or long documents
    assert workers.Workers(loaders, processes=3, **options)._start_patience >= 12_000


def test_row_15_a_worker_says_only_what_the_run_cannot(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": ""}\n' * 9)
    loader = open_streams({"text": stream("text", f"jsonl:{tmp_path}/x.jsonl", 4)}).loaders["text"]
    with pytest.raises(test_streams.TooManySkips) as caught:
        loader.example(0, worker._Account("text"))
    said = str(caught.value)
    assert said.startswith("stream 'text': 100 records in a row could not be used; the last was re")
    assert re.search(r"x\.jsonl \(.*x\.jsonl, line \d\) \(empty text\)\. Repair the data, or", said)
    assert said.endswith(
        "`unified-fm data check` names all such records\n"
    )  # the table is the run's


def test_how_many_processes_suit(monkeypatch):
    def found(cores, **options):
        monkeypatch.setattr(workers, "cores", lambda: cores)
        config = stream("image", "synthetic:image:64", 64, **(BIG | options))
        streams = Streams({"image": config}, seed=0, processes=None)
        return streams.processes

    assert [found(cores) for cores in (2, 7, 8, 16, 224)] == [0, 0, 2, 4, 16]
    assert found(16, size=32, patch_size=8, num_masked=6) == 0  # small pictures: threads
    config = {"text": stream("text", "synthetic:text", 64)}
    assert Streams(config, seed=0, tokenizer="bytes", processes=None).processes == 0


def test_what_cannot_leave_the_process_is_refused():
    class Mine(np.ndarray):  # a class that no other process can import
        pass

    config = {"image": stream("image", "synthetic:image:64", 8, **test_streams.SMALL)}
    streams = Streams(config, seed=0, tokenizer=Mine(0), processes=1)
    with pytest.raises(ValueError, match=r"handed to .* processes: .* loader\.processes=0"):
        next(streams)
