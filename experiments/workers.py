"""Jobs in several processes, each on one core of its own.

The matrices of an experiment are too small for two cores to share one product, and a product that
is shared is summed in another order: on one core a number does not depend on how many there are.
"""

import argparse
import concurrent.futures
import contextlib
import importlib.util
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from unified_fm.runtime import huge_pages

_steps: Any = None  # where this process says that it has made a step; set by `_start`


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--jobs`: by default one for each core, and none where there is a GPU."""
    on_cpu = (
        os.environ.get("JAX_PLATFORMS") == "cpu" or importlib.util.find_spec("jax_plugins") is None
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=cores() if on_cpu else 0,
        help="arms trained at once, each in a process on one core; 0: one after the other in this "
        "process (default: %(default)s). Numbers are the same for any number but 0",
    )


def each(
    function: Callable[..., Any],
    jobs: Sequence[tuple],
    *,
    processes: int,
    stepped: Callable[[int, int], None],
) -> Iterator[tuple[int, Any]]:
    """Calls `function(*job, progress=...)` for every job, and yields what comes back as it comes.

    Args:
        function: of a module, as processes can be told of no other.
        jobs: its arguments.
        processes: how many at once.
        stepped: called with (job's number, step) whenever a job has called its `progress(step)`.

    Yields:
        (job's number, what the function returned).

    Raises:
        BrokenProcessPool: a process was lost; whatever a job raised.
    """
    context = multiprocessing.get_context("spawn")
    told, places = context.SimpleQueue(), context.SimpleQueue()
    for place in range(processes):
        places.put(place)
    reader = threading.Thread(target=_listen, args=(told, stepped), daemon=True)
    reader.start()
    with (
        _large_pages(),
        concurrent.futures.ProcessPoolExecutor(processes, context, _start, (told, places)) as pool,
    ):
        try:
            given = {pool.submit(_call, function, i, job): i for i, job in enumerate(jobs)}
            for done in concurrent.futures.as_completed(given):
                yield given[done], done.result()
        except BaseException:  # else processes that have not begun are waited for
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    told.put(None)
    reader.join()


def _start(told, places) -> None:
    """In a new process, before it has touched a device: a core of its own."""
    global _steps
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _steps = told
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[places.get() % len(allowed)]})


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however that came about."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by `each`"
    parent.join()
    os._exit(1)


def _call(function, number, job):
    return function(*job, progress=lambda step: _steps.put((number, step)))


def _listen(told, stepped) -> None:
    while (message := told.get()) is not None:
        stepped(*message)


@contextlib.contextmanager
def _large_pages():
    """Processes that start inside have large memory pages, as a run of the library has."""
    before = dict(os.environ)
    os.environ.update(huge_pages.environment(before) or {})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
