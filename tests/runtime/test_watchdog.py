import pathlib
import subprocess
import sys

import pytest

from unified_fm.runtime import watchdog

ROOT = pathlib.Path(__file__).parents[2]

_STALLS = """
import sys, threading
from unified_fm.runtime.interruption import Interruption
from unified_fm.runtime.watchdog import Watchdog
wait = threading.Event().wait
def rescue():
    print("rescued", flush=True)
    return True
with Interruption(grace_s=20) as stop, Watchdog(stop, minutes=0.01) as dog:
    stop.folder = sys.argv[1]
    stop.rescue = rescue
    dog.progress("waiting for the batch of step 7")
    {body}
"""


@pytest.mark.parametrize(
    ("body", "saved"),
    [
        ("with stop.leavable(): threading.Event().wait(100)", True),
        ("threading.Event().wait(100)", False),
    ],
)
def test_D11_a_run_that_stalls_says_where_saves_if_it_can_and_ends(tmp_path, body, saved):
    done = subprocess.run(
        [sys.executable, "-c", _STALLS.format(body=body), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 1
    assert done.stdout == ("rescued\n" if saved else "")
    text = (tmp_path / "stacks.txt").read_text()
    assert "no progress for 0.01 minutes while waiting for the batch of step 7" in text
    assert 'File "<string>"' in text  # the stack of the main thread


def test_D11_compilation_does_not_count(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now[0])
    dog = watchdog.Watchdog(None, minutes=15)
    dog.progress("making step 1")
    now[0] = 899.0
    assert not dog.stalled()
    now[0] = 901.0
    assert dog.stalled()
    with dog.held():
        now[0] += 10_000
        assert not dog.stalled()
    assert not dog.stalled()  # and the time begins anew after it
    now[0] += 901
    assert dog.stalled()
    dog.progress("making step 2")
    assert not dog.stalled()


def test_D11_zero_minutes_are_no_watch():
    with watchdog.Watchdog(None, minutes=0) as dog:
        assert dog._thread is None


@pytest.mark.parametrize("minutes", [-1, "15", float("nan"), True, None])
def test_D11_what_is_no_time_is_refused(minutes):
    with pytest.raises(ValueError, match=r"watchdog\.minutes must be a number, 0 \(off\) or more"):
        watchdog.check(minutes)
