"""Measures a config on this machine: the step, the loader, the merge, beside a matrix product.

    unified-fm bench --config=quickstart
    unified-fm bench --config=ufm_base:smoke --steps=5 --compare=merge.name=sum

All numbers are of one run, and on a shared machine only their ratios mean anything:

    step          wall time of one step on batches that lie ready, its samples per second
    flops         of the compiled step, as XLA counts them (padding and rematerialisation included)
    utilisation   the step's FLOP/s over those of the largest of a few matrix products, measured
                  here in the model's dtype
    loader        batches per second of the streams alone, and how many steps' worth that is
    compare       the same step with one other setting, alternating with it, as a ratio
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from unified_fm import setup
from unified_fm.commands import _settings
from unified_fm.config.settings import Settings


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Reads the command line, measures and prints; returns the exit status."""
    parser = _settings.parser(prog, __doc__)
    parser.add_argument("--steps", type=int, default=20, help="to take the median of")
    parser.add_argument("--compare", metavar="KEY=VALUE", help="of the config, for another step")
    options, changes = _settings.parse(parser, arguments)
    settings = _settings.load(parser, options, changes)
    other = None
    if options.compare:
        other = _settings.load(parser, options, [*changes, options.compare])
    try:
        print(bench(settings, other, steps=options.steps, compared=options.compare))
    except ValueError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    return 0


def bench(
    config: Settings, other: Settings | None = None, *, steps: int = 20, compared: str = "compared"
) -> str:
    """Measures so many steps, and as many of `other`; returns the lines to print.

    `compared` says, for people, what is different there.

    Raises:
        ValueError: teachers, whose checkpoints are not looked for here.
    """
    if config.teachers:
        raise ValueError(
            "a config with teachers needs their checkpoints, which are not made here; "
            "measure the student alone with --config.teachers={} or a config without them"
        )
    ready = setup.prepare(config)
    batches, loader = _batches(ready)
    made = {"step": _ready_step(ready, batches)}
    if other is not None:
        made["compare"] = _ready_step(setup.prepare(other), batches)
    seconds = _alternate({name: run for name, (run, _) in made.items()}, steps)

    samples = config.samples_per_step
    here, flops = seconds["step"], made["step"][1]
    peak = matmul_peak(config.model.get("dtype", "float32"))
    lines = [
        f"device        {jax.device_count()} x {jax.devices()[0].device_kind}",
        f"step          {here * 1e3:.1f} ms, {samples / here:.1f} samples/s",
        f"flops         {flops / 1e9:.2f} GFLOP per step",
        f"utilisation   {flops / here / peak:.1%} of {peak / 1e9:.0f} GFLOP/s (matrix product)",
        f"loader        {1 / loader:.1f} batches/s, {here / loader:.1f} steps' worth",
    ]
    if other is not None:
        lines.append(f"compare       {compared}: {seconds['compare'] / here:.2f} x the step")
    return "\n".join(lines)


def matmul_peak(dtype: str, sizes: Sequence[int] = (1024, 2048, 4096)) -> float:
    """FLOP/s of the fastest of some square matrix products."""
    best = 0.0
    for size in sizes:
        a = jnp.ones((size, size), dtype)
        product = jax.jit(jnp.matmul)
        jax.block_until_ready(product(a, a))
        times = []
        while len(times) < 3:
            started = time.perf_counter()
            jax.block_until_ready(product(a, a))
            times.append(time.perf_counter() - started)
        best = max(best, 2 * size**3 / min(times))
        if sum(times) > 3.0:  # a small machine: larger products say nothing new
            break
    return best


def _batches(ready: setup.Prepared, count: int = 10) -> tuple[Any, float]:
    """(one batch of every stream on the devices, seconds that the loader needs for a batch)."""
    with contextlib.closing(ready.open_streams()) as streams:
        first = next(streams)
        for _ in range(4):  # what was read ahead while the first batch was waited for
            next(streams)
        started = time.perf_counter()
        for _ in range(count):
            next(streams)
        return ready.place(first), (time.perf_counter() - started) / count


def _ready_step(ready: setup.Prepared, batches: Any) -> tuple[Callable[[], None], float]:
    """(a call that makes one step, FLOPs of the step)."""
    compiled = ready.compiled_step({})
    held = {"state": ready.fresh_state({})}

    def run():
        held["state"], metrics = compiled(held["state"], {}, batches)
        jax.block_until_ready(metrics)

    run()
    return run, compiled.cost_analysis()["flops"]


def _alternate(runs: Mapping[str, Callable[[], None]], steps: int) -> dict[str, float]:
    """Median seconds of each call, called in turn, so that all see the same machine."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(steps):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}
