"""One function, compiled and timed beside the machine's matrix product."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax

from unified_fm.bench import machine, traced
from unified_fm.planning import hlo, work


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What a function takes.

    Attributes:
        seconds: median of its calls.
        flops: of its matrix products, loops counted as often as they run.
        bytes: read and written, see `moved`.
        temporary: bytes beside arguments and results.
        compiled_in: seconds, tracing included.
    """

    seconds: float
    flops: float
    bytes: float
    temporary: int
    compiled_in: float

    def line(self, name: str, product_rate: float) -> str:
        """One line of a table; `heading` is the line above. A rate of 0 is not compared with."""
        share = f"{self.flops / self.seconds / product_rate:.1%}" if product_rate else "-"
        return (
            f"{name:<28} {self.seconds * 1e3:10.2f} {self.flops / 1e9:10.3f} {share:>8}"
            f" {self.bytes / 1e6:10.1f} {self.temporary / 1e6:10.1f} {self.compiled_in:9.1f}"
        )


def moved(program: Any) -> float:
    """Bytes that a compiled program reads and writes on one device.

    They are counted instruction by instruction, a loop's body as often as it runs; XLA's own
    "bytes accessed" has it once.
    """
    return work.moved(hlo.parse(program.as_text()))


def heading(what: str) -> list[str]:
    """The first lines of a table of `Measured`."""
    columns = f"{'ms':>10} {'GFLOP':>10} {'product':>8} {'MB':>10} {'temp MB':>10} {'compile s':>9}"
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return [device, f"{what:<28} {columns}"]


def measure(fn: Callable, arguments: Sequence[Any], times: int) -> Measured:
    """Compiles `fn(*arguments)` and calls it so many times.

    Raises:
        ValueError, NotImplementedError, RuntimeError: what JAX says of a function it cannot run.
    """
    made: dict[str, Any] = {}

    def compile_it() -> None:
        made["trace"] = jax.jit(fn).trace(*arguments)
        made["program"] = made["trace"].lower().compile()

    compiled_in = machine.timed(compile_it)
    program = made["program"]

    def run() -> None:
        jax.block_until_ready(program(*arguments))

    run()
    seconds = statistics.median(machine.timed(run) for _ in range(times))
    memory = program.memory_analysis()
    return Measured(
        seconds=seconds,
        flops=traced.flops(made["trace"].jaxpr),
        bytes=moved(program),
        temporary=0 if memory is None else memory.temp_size_in_bytes,
        compiled_in=compiled_in,
    )


def refused(name: str, error: Exception) -> str:
    """The line of what cannot be measured here."""
    return f"{name:<28} refused: {str(error).strip().splitlines()[0][:120]}"
