import functools
import signal
import threading
import time

import pytest

from tests.runtime.meeting import meet
from unified_fm.runtime.link import Link
from unified_fm.runtime.processes import Place, Refused


class _Run:
    """Links of `count` processes; `ended` is {index: exit code} of those that were ended."""

    def __init__(self, count, **options):
        self.ended, self.links, self.shown, self.told = {}, {}, {}, {}
        self._changed = threading.Condition()
        for index, wires in meet(count).items():
            place = Place("127.0.0.1", 1, index, count)
            self.links[index] = Link(
                place,
                wires,
                end=functools.partial(self._end, index),
                show=functools.partial(self.shown.setdefault, index),
                on_stop=functools.partial(self.told.setdefault, index),
                **options,
            )

    def _end(self, index, code):
        with self._changed:
            self.ended.setdefault(index, code)
            self._changed.notify_all()

    def wait(self, expected):
        with self._changed:
            assert self._changed.wait_for(lambda: self.ended == expected, 30), self.ended

    def vanish(self, index):
        """What the others see of a SIGKILL: the kernel closes the connections."""
        self.links[index]._closing.set()
        self.links[index]._thread.join()
        for wire in self.links[index]._wires.values():
            wire._socket.close()

    def all(self, method, *arguments):
        """Calls a method of every link at the same time; returns or raises what it does."""
        found = {}

        def call(index):
            try:
                found[index] = getattr(self.links[index], method)(*arguments)
            except Refused as refusal:
                found[index] = refusal

        threads = [threading.Thread(target=call, args=(i,)) for i in self.links]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return found


@pytest.fixture
def start(caplog, monkeypatch):
    monkeypatch.setattr("unified_fm.runtime.link._BEAT", 0.05)
    monkeypatch.setattr("unified_fm.runtime.link._OWN_END", 0.3)
    monkeypatch.setattr("unified_fm.runtime.link._LEAVE", 1.0)
    caplog.set_level("INFO", logger="unified_fm")
    runs = []

    def go(count, **options):
        runs.append(_Run(count, **options))
        return runs[-1]

    yield go
    for run in runs:
        for link in run.links.values():
            link._closing.set()
        for link in run.links.values():
            link._close()


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_C4_who_vanishes_is_named_and_the_others_end(start, caplog, victim):
    run = start(3)
    for link in run.links.values():
        link.at_step(7)
    _until(lambda: run.links[0]._steps.get(1) == 7 and run.links[1]._steps.get(0) == 7)
    run.vanish(victim)
    run.wait(dict.fromkeys({0, 1, 2} - {victim}, 1))
    assert (
        f"worker {victim}, which was at step 7, is gone: its connection was closed" in caplog.text
    )
    assert "the same command on all of them continues from the last complete checkpoint" in (
        caplog.text
    )


def test_C4_a_host_that_falls_silent_is_lost(start, caplog):
    run = start(3, silence=0.5)
    run.links[2]._closing.set()  # as if frozen: its connection stands
    run.wait({0: 1, 1: 1})
    assert "worker 2 is gone: it has given no sign of life for" in caplog.text


def test_C4_who_ends_well_is_not_missed(start):
    run = start(3)
    run.links[1].leave()
    run.links[0].leave()
    time.sleep(0.3)
    run.links[2].leave()
    assert run.ended == {}


@pytest.mark.parametrize("victim", [0, 1])
def test_C4_an_error_of_one_worker_is_told_to_the_others(start, caplog, victim):
    run = start(3)
    run.links[victim].fail("ValueError: no such file")
    run.wait(dict.fromkeys({0, 1, 2} - {victim}, 1))
    assert f"worker {victim} has ended with an error: ValueError: no such file" in caplog.text


@pytest.mark.parametrize("calls", [0, 1])
def test_C4_a_connection_that_closes_meanwhile_keeps_nobody_from_ending(start, calls):
    run = start(2)
    link = run.links[0]
    link._closing.set()
    link._thread.join()
    wire = link._wires[1]
    open_for = [wire.fileno()] * calls
    wire.fileno = lambda: open_for.pop() if open_for else -1
    link._leave_at_once(1)
    assert run.ended[0] == 1


def test_C4_an_error_of_all_workers_is_left_to_each(start, caplog):
    run = start(3)
    run.all("fail", "NotFinite: step 7 was not applied")
    time.sleep(0.6)  # longer than each has to end by itself
    assert run.ended == {}
    assert "has ended with an error" not in caplog.text


def test_C1_what_each_has_found_is_compared(start):
    run = start(3)
    assert run.all("agree", "data", {"records": 10}) == {0: None, 1: None, 2: None}
    run.links[2].agree, real = lambda name, _: real(name, {"records": 9}), run.links[2].agree
    for refusal in run.all("agree", "more", {"records": 10}).values():
        assert "worker 2 has records = 9, worker 0 has 10" in str(refusal)


@pytest.mark.parametrize("asker", [0, 2])
def test_C3_all_stop_after_the_same_step(start, asker):
    run, stopped, asked = start(3), {}, threading.Event()

    def steps(index):
        link, step = run.links[index], 0
        while (signum := link.stops()) is None:
            step += 1
            time.sleep(0.002 * (index + 1))  # they are not equally fast, as hosts run ahead
            if index == asker and step == 20:
                link.want_stop(signal.SIGINT)
                asked.set()
        stopped[index] = (step, signum)

    threads = [threading.Thread(target=steps, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert asked.is_set()
    assert len(set(stopped.values())) == 1, stopped
    assert stopped[0][0] >= 20
    assert stopped[0][1] == signal.SIGINT
    assert run.told == dict.fromkeys(range(3), signal.SIGINT)
    assert run.ended == {}


def test_C3_many_signals_are_one(start):
    run = start(2)
    assert run.all("stops") == {0: None, 1: None}
    for link in run.links.values():
        link.want_stop(signal.SIGTERM)
        link.want_stop(signal.SIGINT)
    _until(lambda: all(link._stop_at == 2 for link in run.links.values()))
    found = run.all("stops")
    assert found[0] == found[1] in (signal.SIGTERM, signal.SIGINT)


def test_C3_before_the_first_step_all_leave_at_once(start, caplog):
    run = start(3)
    run.links[1].want_stop(signal.SIGTERM)
    run.wait(dict.fromkeys(range(3), 143))
    assert "stopped before the first step: nothing to save" in caplog.text
    assert "is gone" not in caplog.text


def test_D11_stacks_and_steps_of_every_process(start):
    run = start(2)
    for index, link in run.links.items():
        link.at_step(index + 4)
    _until(lambda: run.links[0]._steps == {0: 4, 1: 5})
    run.links[1].stalled("no progress for 15 minutes")
    run.wait({0: 1, 1: 1})
    why = "worker 1: no progress for 15 minutes (worker 0 at step 4, worker 1 at step 5); "
    assert run.shown == {i: f"{why}this is worker {i}" for i in range(2)}


def _until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
