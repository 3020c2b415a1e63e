"""What was freed goes back to the system."""

import os
import sys

import pytest

from unified_fm.runtime import heap

PIECE, COUNT = 50_000, 4_000  # bytes; small enough for malloc to keep them when they are free


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_was_freed_is_no_longer_resident():
    pieces = [b"x" * PIECE for _ in range(COUNT)]
    last = b"y" * PIECE  # what lies behind them keeps malloc from giving them back by itself
    held = resident()
    del pieces
    heap.give_back()
    assert held - resident() > 0.8 * PIECE * COUNT
    assert len(last) == PIECE


def test_another_c_library_is_left_alone(monkeypatch):
    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", unknown)
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: pytest.fail("it was called"))
    heap.give_back()
