import contextlib
import errno
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import pytest

from unified_fm.runtime import surroundings, workdir

ROOT = pathlib.Path(__file__).parents[2]
_HOLD = """
import sys, time
from unified_fm.runtime import workdir
with workdir.lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(100)
"""


@contextlib.contextmanager
def _holder(folder):
    command = [sys.executable, "-c", _HOLD, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def _refused(folder, match):
    with pytest.raises(workdir.Locked, match=match), workdir.lock(folder):
        raise AssertionError("got a lock that is held")


def _read(folder):
    return json.loads((folder / "run.lock").read_text())


def _lock_of(folder, **changes):
    """Writes the lock of a living run of another host, but for `changes`."""
    holder = {"host": "elsewhere", "pid": 1, "started": "x", "time": time.time(), "key": "a1"}
    (folder / "run.lock").write_text(json.dumps(holder | changes))


def _make_older(folder, seconds):
    then = time.time() - seconds
    os.utime(folder / "run.lock", (then, then))


def test_row_29_the_second_run_in_a_workdir_is_refused_and_may_be_forced(tmp_path):
    with _holder(tmp_path) as holder:
        _refused(tmp_path, f"process {holder.pid} on host .*, .* s ago.*--force")
        with workdir.lock(tmp_path, force=True):
            assert _read(tmp_path)["pid"] == os.getpid()
    assert [p.name for p in tmp_path.iterdir()] == []


def test_row_29_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    with _holder(tmp_path):
        pass
    with workdir.lock(tmp_path):
        assert _read(tmp_path)["pid"] == os.getpid()
    assert not (tmp_path / "run.lock").exists()


def test_row_29_a_process_id_that_is_used_again_is_not_the_holder(tmp_path):
    _lock_of(tmp_path, host=socket.gethostname(), pid=os.getpid(), started="earlier")
    with workdir.lock(tmp_path):
        assert _read(tmp_path)["started"] != "earlier"


@pytest.mark.parametrize("text", ["", '{"host": "elsewh', '{"host": "elsewhere"}', "\0\0", "[]"])
def test_B6_a_lock_that_names_nobody_yet_is_a_lock_until_it_is_old(tmp_path, text, monkeypatch):
    (tmp_path / "run.lock").write_text(text)
    _make_older(tmp_path, -100)  # its starter is writing, and no test is so slow
    monkeypatch.setattr(workdir, "_PATIENCE", 0.2)
    _refused(tmp_path, "is being locked by another run at this moment")
    _make_older(tmp_path, 60)
    with workdir.lock(tmp_path):
        assert _read(tmp_path)["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_B6_of_many_starters_on_a_stale_lock_exactly_one_enters(tmp_path):
    for round_ in range(40):
        folder = tmp_path / str(round_)
        folder.mkdir()
        stale = json.dumps({"host": socket.gethostname(), "pid": 1, "started": "x", "time": 0.0})
        (folder / "run.lock").write_text(stale if round_ % 2 else "")
        _make_older(folder, 60)
        entered = _race(folder, starters=6)
        assert len(entered) == 1, f"round {round_}: {len(entered)} entered"
        assert list(folder.iterdir()) == []


def _race(folder, starters):
    """The starters, each a thread of its own, that hold the lock when all have tried."""
    entered, ready, tried = [], threading.Barrier(starters), threading.Barrier(starters)

    def start(number):
        ready.wait()
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(workdir.Locked):
                stack.enter_context(workdir.lock(folder))
                entered.append(number)
            tried.wait()  # nobody leaves before

    threads = [threading.Thread(target=start, args=(i,)) for i in range(starters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return entered


def test_B6_a_taker_that_died_half_way_blocks_nobody(tmp_path):
    _lock_of(tmp_path, host=socket.gethostname(), pid=1, started="x", key="dead")
    (tmp_path / "run.lock.dead").write_text((tmp_path / "run.lock").read_text())
    with workdir.lock(tmp_path):
        assert _read(tmp_path)["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_B6_no_hard_link_is_needed(tmp_path, monkeypatch):
    def link(*_, **__):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", link)
    with workdir.lock(tmp_path):
        _refused(tmp_path, "is used by process")


def test_B6_a_lock_that_cannot_be_read_is_told_in_a_sentence(tmp_path, monkeypatch):
    def stale(path, *args, **kw):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with workdir.lock(tmp_path) as held:
        monkeypatch.setattr(workdir, "open", stale, raising=False)
        message = r"run\.lock cannot be read \(Stale file handle\), so whether another run uses"
        for use in (held.check, workdir.lock(tmp_path).__enter__):
            with pytest.raises(surroundings.Unusable, match=message):
                use()
        monkeypatch.undo()
        held.check()


def test_B6_who_has_lost_the_lock_stops_before_it_saves(tmp_path):
    with workdir.lock(tmp_path) as old:
        old.check()
        with workdir.lock(tmp_path, force=True) as new:
            with pytest.raises(workdir.LockLost, match=f"was taken by process {os.getpid()} on"):
                old.check()
            old.release()
            new.check()  # what the old run leaves behind is the new one's lock
        with pytest.raises(workdir.LockLost, match="is gone"):
            old.check()


def test_B6_another_host_is_judged_by_the_age_of_its_sign_of_life(tmp_path):
    _lock_of(tmp_path, time=time.time() - 86400)
    _refused(tmp_path, r"process 1 on host elsewhere, which locked it 86\d+ s ago.*--force")
    _make_older(tmp_path, 60)  # four beats missed
    _refused(tmp_path, r"lapses 120 s after its last sign of life, 6\d s ago")
    _make_older(tmp_path, 121)
    with workdir.lock(tmp_path):
        assert _read(tmp_path)["pid"] == os.getpid()
    # The lock of an older version of the library gives no sign: only its time is known.
    old = {"host": "elsewhere", "pid": 1, "started": "x", "time": time.time() - 60}
    (tmp_path / "run.lock").write_text(json.dumps(old))
    _refused(tmp_path, r"on host elsewhere, which locked it 6\d s ago")
    (tmp_path / "run.lock").write_text(json.dumps(old | {"time": time.time() - 3 * 86400}))
    with workdir.lock(tmp_path):
        pass


def test_B6_a_process_in_another_container_of_this_host_is_not_called_dead(tmp_path):
    _lock_of(tmp_path, host=socket.gethostname(), pid=2**30, processes="pid:[1]")
    _refused(tmp_path, "is used by process")
    _make_older(tmp_path, 90)
    with workdir.lock(tmp_path):
        pass


def test_B6_the_holder_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir, "_BEAT", 0.01)
    with workdir.lock(tmp_path) as held:
        _make_older(tmp_path, 500)
        end = time.monotonic() + 60
        while time.time() - (tmp_path / "run.lock").stat().st_mtime > 100:
            assert time.monotonic() < end, "no sign of life"
            time.sleep(0.01)
        held.check()


def test_B6_a_bucket_is_not_locked_and_that_is_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(workdir.logging.getLogger("unified_fm"), "propagate", True)

    class Bucket(type(tmp_path)):
        def __fspath__(self):
            return "gs://bucket/run"

        __str__ = __fspath__

    monkeypatch.setattr(workdir.epath, "Path", lambda _: tmp_path)
    with workdir.lock(Bucket(tmp_path)) as held:
        held.check()
        assert list(tmp_path.iterdir()) == []
    assert "gs://bucket/run is not locked" in caplog.text


def test_a_workdir_that_checkpoints_cannot_be_written_to_is_refused():
    with pytest.raises(ValueError, match=r"s3://bucket/run: .* local folders and gs:// only"):
        workdir.absolute("s3://bucket/run")
