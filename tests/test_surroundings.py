"""What a run needs of the machine is said at the start; what it can do without is only missed."""

import itertools
import json
import logging
import os
import pathlib
import resource
import socket
import tempfile
import time

import pytest

from unified_fm import main
from unified_fm.runtime import surroundings

CONFIG = f"--config={pathlib.Path(__file__).parent / 'tiny_config.py'}:3"
NOWHERE = "/proc"  # where nobody can make a file, not even root


@pytest.fixture
def warnings(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("unified_fm"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="unified_fm")
    return lambda: caplog.text


def test_nothing_is_said_where_nothing_is_missing(tmp_path, monkeypatch, warnings):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    surroundings.check(tmp_path / "run")
    assert not warnings()
    assert os.listdir(tmp_path / "run") == []


def test_row_28_a_workdir_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(NOWHERE)
    with pytest.raises(surroundings.Unusable, match=r"runs/a cannot be written .* folder is /proc"):
        surroundings.check("runs/a")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # as a full disk
    try:
        with pytest.raises(surroundings.Unusable, match="--workdir="):
            surroundings.check(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_row_28_what_will_be_missing_is_named(tmp_path, monkeypatch, warnings):
    monkeypatch.setattr(tempfile, "tempdir", NOWHERE)
    monkeypatch.setenv("TMPDIR", NOWHERE)
    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", f"{NOWHERE}/nobody")
    (tmp_path / "config.json").write_text("{}")
    later = time.time() + 1e6
    os.utime(tmp_path / "config.json", (later, later))
    surroundings.check(tmp_path)
    assert "the temporary folder /proc cannot be written" in warnings()
    assert "no home folder that can be written, so compiled programs are not kept" in warnings()
    assert "s before the last start" in warnings()


@pytest.mark.slow
def test_row_28_a_run_needs_no_network_no_home_no_clock_and_no_current_folder(
    tmp_path, monkeypatch
):
    times = itertools.count(2e9, -3600)  # back by an hour at every look
    monkeypatch.setattr(time, "time", lambda: next(times))

    def refuse(*_, **__):
        raise OSError("the network is down")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HOME", f"{NOWHERE}/nobody")
    monkeypatch.chdir(NOWHERE)
    assert main.main(["main", CONFIG, f"--workdir={tmp_path}"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["samples_per_second"] > 0 for line in lines)
    assert (tmp_path / "checkpoints" / "3").exists()
