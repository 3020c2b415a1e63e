"""Signals in phases that a handler alone cannot leave; each in a process of its own."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from unified_fm.runtime.interruption import Interrupted, Interruption

ROOT = pathlib.Path(__file__).parents[2]

# A mutex that is locked twice waits for ever in C: no Python handler runs, as while XLA compiles.
_STUCK = """
import ctypes, logging, os, pathlib, threading, time
from unified_fm.runtime.interruption import Interrupted, Interruption
logging.basicConfig(level=logging.INFO, format="%(message)s")
def stuck():
    lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
    lock(mutex)
    threading.Thread(target=tell_when_it_sleeps, daemon=True).start()
    lock(mutex)
def tell_when_it_sleeps():
    main = pathlib.Path(f"/proc/self/task/{{os.getpid()}}/stat")
    asleep = 0
    while asleep < 20:
        time.sleep(0.01)
        asleep = asleep + 1 if main.read_text().rsplit(")", 1)[1].split()[0] == "S" else 0
    print("stuck", flush=True)
def rescue():
    print("rescued", flush=True)
    return True
def failing():
    print("not rescued", flush=True)
    return False
with Interruption(grace_s={grace}) as stop:
    stop.folder = {folder!r}
    stop.last_words.append(lambda: print("unlocked", flush=True))
    {body}
"""


def _stopped(tmp_path, body, signum=signal.SIGTERM, grace=4, again=False):
    """(exit code, output, errors, seconds) of a process that is signalled when it is stuck."""
    script = _STUCK.format(grace=grace, folder=str(tmp_path), body=body)
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "stuck\n"
    started = time.monotonic()
    process.send_signal(signum)
    if again:
        while "saving, then exiting" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signum)
    try:
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, output, errors, time.monotonic() - started


def test_B4_a_start_that_is_stuck_in_c_ends(tmp_path):
    code, output, errors, _ = _stopped(tmp_path, "with stop.leavable(): stuck()")
    assert code == 143
    assert output == "unlocked\n"
    assert "there was nothing to save" in errors
    assert "the stacks of all threads" in errors
    assert "in stuck" in (tmp_path / "stacks.txt").read_text()


@pytest.mark.parametrize(("rescue", "code"), [("rescue", 143), ("failing", 1)])
def test_B4_what_is_unsaved_is_saved_for_a_main_thread_that_is_stuck(tmp_path, rescue, code):
    body = f"stop.rescue = {rescue}\n    with stop.leavable(): stuck()"
    found, output, _, _ = _stopped(tmp_path, body)
    assert (found, output.splitlines()) == (code, [_said(rescue), "unlocked"])


def _said(rescue):
    return {"rescue": "rescued", "failing": "not rescued"}[rescue]


def test_B4_a_step_that_is_stuck_ends_with_the_grace(tmp_path):
    code, output, errors, seconds = _stopped(tmp_path, "stop.rescue = rescue; stuck()")
    assert code == 143
    assert output == "unlocked\n"  # its state may be half changed, so nobody saves it
    assert "did not end within the grace of 4 s" in errors
    assert seconds > 3


def test_B4_a_second_signal_ends_a_process_that_is_stuck_in_c(tmp_path):
    code, output, errors, _ = _stopped(tmp_path, "stuck()", signal.SIGINT, grace=1000, again=True)
    assert code == 130
    assert output == ""
    assert "SIGINT again: exiting at once" in errors


def test_B4_a_library_that_catches_exceptions_does_not_swallow_a_signal():
    reached = []
    with Interruption() as stop:
        with pytest.raises(Interrupted), stop.leavable():
            try:
                _signal_me()
            except Exception:
                reached.append("a library goes on")
        assert stop.exit_code == 143
    assert not reached


@pytest.mark.parametrize("makes_of_it", ["another error", "nothing"])
def test_B4_whatever_a_library_makes_of_a_signal_it_is_one(makes_of_it):
    with Interruption() as stop, pytest.raises(Interrupted), stop.leavable():
        try:
            _signal_me()
        except BaseException as error:
            if makes_of_it == "another error":
                raise ValueError("the checkpoint is damaged") from error


def _signal_me():
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):  # the handler runs between two instructions
        time.sleep(0.01)


def test_signals_are_those_of_before_when_it_is_left():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
