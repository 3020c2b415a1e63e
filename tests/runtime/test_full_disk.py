"""metrics.jsonl: nothing is lost to a full disk, nothing stands there twice."""

import contextlib
import json
import resource

import pytest

from unified_fm.runtime import errors, log, workdir


@pytest.fixture
def open_log(tmp_path):
    def make(start_step=0):
        return log.Log(
            tmp_path, total_steps=9, start_step=start_step, samples_per_step=4, tensorboard=False
        )

    return make


@contextlib.contextmanager
def full_disk(room=0):
    """Files may not grow beyond `room` bytes (EFBIG stands in for ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("room", [0, 25, 45])  # of lines of 20 bytes: also in mid-line
def test_B3_lines_wait_until_there_is_room(tmp_path, open_log, room):
    writer = open_log()
    writer.write(1, {"a": 0.5})
    assert (tmp_path / "metrics.jsonl").stat().st_size == 22
    with full_disk(room):
        for step in (2, 3, 4):
            writer.write(step, {"a": 0.5})
    writer.write(5, {"a": 0.5})
    writer.close()
    assert _lines(tmp_path) == [{"step": step, "a": 0.5} for step in range(1, 6)]


def test_B3_lines_that_wait_are_written_at_the_end(tmp_path, open_log):
    with full_disk():
        writer = open_log()
        writer.write(1, {"a": 0.5})
    assert writer.failures == {"metrics.jsonl": 1}
    writer.close()
    assert _lines(tmp_path) == [{"step": 1, "a": 0.5}]


def test_an_evaluation_that_is_made_again_stands_there_once(tmp_path, open_log):
    writer = open_log()
    writer.write(1, {"loss": 2.0})
    writer.write(1, {"words": 1.0})
    writer.write(1, {"size": 3.0})
    again = open_log(start_step=1)
    again.write(1, {"words": 1.5})
    assert _lines(tmp_path) == [
        {"step": 1, "loss": 2.0},
        {"step": 1, "size": 3.0},
        {"step": 1, "words": 1.5},
    ]


def test_B6_a_full_disk_leaves_no_lock_that_names_nobody(tmp_path):
    with full_disk(), pytest.raises(OSError, match="File too large"), workdir.lock(tmp_path):
        raise AssertionError("got a lock")
    assert list(tmp_path.iterdir()) == []
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(workdir.lock(tmp_path))
        stack.enter_context(full_disk())
        held.release()
    assert list(tmp_path.iterdir()) == []


def test_B7_a_full_disk_leaves_no_half_written_account(tmp_path):
    with full_disk(), pytest.raises(OSError, match="File too large"):
        errors.write(tmp_path, ValueError("x"))
    assert list(tmp_path.iterdir()) == []
