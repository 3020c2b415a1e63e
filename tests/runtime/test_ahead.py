"""Results that are made ahead: in order, one at a time, errors where they are got."""

import itertools
import threading

import pytest

from unified_fm.runtime.ahead import Ahead


def test_results_come_in_order_and_no_more_than_one_is_ready():
    count, made = itertools.count(), []

    def make():
        made.append(threading.current_thread())
        return next(count)

    ahead = Ahead(make)
    assert not made  # nothing is made before it is asked for
    assert ahead.get() == 0
    ahead.ask()
    ahead.ask()  # asked for already
    assert [ahead.get() for _ in range(3)] == [1, 2, 3]
    ahead.close()
    assert len(made) == 4 and threading.current_thread() not in made
    assert len(set(made)) == 1 and not made[0].is_alive()


def test_an_error_comes_where_the_result_is_got():
    def fails():
        raise OSError("no such disk")

    ahead = Ahead(fails)
    ahead.ask()
    for _ in range(2):  # it fails again, and says so again
        with pytest.raises(OSError, match="no such disk"):
            ahead.get()
    ahead.close()


def test_closing_does_not_wait_for_what_is_stuck():
    begun, free = threading.Event(), threading.Event()

    def stuck():
        begun.set()
        return free.wait()

    ahead = Ahead(stuck)
    ahead.ask()
    assert begun.wait(10)
    ahead.close(timeout=0.01)
    free.set()
    assert ahead.get()  # what was being made is not lost
    ahead.close()
    assert not ahead._thread.is_alive()
