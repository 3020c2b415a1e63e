"""What the machine can do, and how much of it is used: the yardsticks of every measurement."""

import functools
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

SIZES = (1024, 2048, 4096, 8192)
_ENOUGH = 3.0  # seconds for the products of one size: a larger one says nothing new


@functools.cache
def product_rate(dtype: str) -> float:
    """FLOP/s of the fastest of some square matrix products, of random numbers in this dtype.

    On zeros or ones a GPU draws less power, and is faster than it is on anything real. It is
    measured once in a run.
    """
    best = 0.0
    product = jax.jit(jnp.matmul)
    for size in SIZES:
        keys = jax.random.split(jax.random.key(0))
        a, b = (jax.random.normal(key, (size, size), dtype) for key in keys)
        repeats = 1 if jax.default_backend() == "cpu" else 20

        def run(a=a, b=b, repeats=repeats):
            for _ in range(repeats):  # in a row, so that a GPU does not wait for its next one
                last = product(a, b)
            jax.block_until_ready(last)

        run()
        times = [timed(run) for _ in range(3)]
        best = max(best, repeats * 2 * size**3 / min(times))
        if sum(times) > _ENOUGH:
            break
    return best


def say(line: str) -> None:
    """Tells a person who waits what goes on; results go to standard output."""
    print(f"bench: {line}", file=sys.stderr, flush=True)


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def alternated(runs: Mapping[str, Callable[[], float]], times: int) -> dict[str, float]:
    """Median seconds of each of some calls, made in turn, so that all see the same machine.

    Args:
        runs: {name: makes one call and returns its seconds}.
        times: how often each is called.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(times):
        for name, run in runs.items():
            found[name].append(run())
    return {name: statistics.median(values) for name, values in found.items()}


def cpu_seconds() -> float:
    """CPU time of this process so far, all threads together."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def closing(dtype: str) -> list[str]:
    """The last lines of every measurement: the matrix product of the same run, and its memory."""
    peak, of_what = peak_memory()  # first, since the product's matrices are large, too
    return [
        f"product       {product_rate(dtype) / 1e12:.3f} TFLOP/s, XLA's matrix product in {dtype}",
        f"memory        {peak / 1e9:.2f} GB at most ({of_what})",
    ]


def peak_memory() -> tuple[int, str]:
    """(most bytes in use so far, of what): of the first device, or on a CPU of this process."""
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "of the device"
    # Linux counts in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "resident, of the process"
