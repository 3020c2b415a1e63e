"""The training step of a config: how long it takes, and how that compares with what it must do."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from unified_fm import setup
from unified_fm.bench import flops, machine, measured, products, synthetic, traced
from unified_fm.config.settings import Settings
from unified_fm.data import tokenizer as tokenizers
from unified_fm.runtime import heap

_SAID = 80  # characters of why there are no sources
Batches = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(kw_only=True, eq=False)
class Step:
    """A compiled step with its state and the batches it is given, again and again.

    Attributes:
        settings: of the run.
        batches: as the streams give them.
        made: where they are from.
        executed: FLOPs of its matrix products, see `traced`.
        products: {product: how often it is computed}.
        traced_in, compiled_in: seconds.
        compiled_by: CPU-seconds of the compiler.
        bytes: read and written, see `measured.moved`.
        temporary: bytes that XLA needs beside arguments and results, on one device.
    """

    settings: Settings
    batches: Batches
    made: str
    executed: float
    products: Mapping[products.Product, int]
    traced_in: float
    compiled_in: float
    compiled_by: float
    bytes: float
    temporary: int
    _compiled: Callable
    _state: Any
    _placed: Any

    def run(self) -> float:
        """Makes one step; returns its seconds."""
        started = time.perf_counter()
        self._state, metrics = self._compiled(self._state, {}, self._placed)
        jax.block_until_ready(metrics)
        return time.perf_counter() - started


def prepared(settings: Settings, *, made_up: bool = False) -> tuple[setup.Prepared, Batches, str]:
    """A run's parts, one batch of every stream, and where the batch is from.

    Args:
        settings: of the run.
        made_up: draw the batches, even where the sources are there.

    Raises:
        ValueError: teachers, whose checkpoints are not looked for here.
    """
    if settings.teachers:
        raise ValueError(
            "a config with teachers needs their checkpoints, which are not made here; "
            "measure the student alone with --config.teachers={} or a config without them"
        )
    why = "as asked for"
    if not made_up:
        try:
            ready = setup.prepare(settings)
            with contextlib.closing(ready.open_streams()) as streams:
                return ready, next(streams), "of the config's sources"
        except (ValueError, OSError) as error:
            why = str(error).splitlines()[0][:_SAID]
    ready = setup.prepare(settings, tokenizer=tokenizers.load("bytes"))
    return ready, synthetic.batches(settings, ready.shapes), f"synthetic ({why})"


def again(settings: Settings, ready: setup.Prepared) -> setup.Prepared:
    """The parts of a run with other settings, that reads the same batches."""
    return setup.prepare(settings, tokenizer=ready.tokenizer)


def dtype(settings: Settings) -> str:
    """That of the model's products."""
    return settings.model.get("dtype", "float32")


def compiled(ready: setup.Prepared, batches: Batches, made: str = "") -> Step:
    """Compiles the step of a run and makes it once, so that it is warm."""
    machine.say("tracing the step")
    started = time.perf_counter()
    trace = ready.train_step().trace(ready.target, {}, ready.batches)
    lowered = trace.lower()
    between, before = time.perf_counter(), machine.cpu_seconds()
    machine.say(f"traced in {between - started:.0f} s; compiling it, which takes minutes")
    program = lowered.compile()
    ended, after = time.perf_counter(), machine.cpu_seconds()
    bytes_moved = measured.moved(program)  # before the state is there: the text is long
    heap.give_back()
    machine.say(f"compiled in {ended - between:.0f} s; running it")
    memory = program.memory_analysis()
    step = Step(
        settings=ready.settings,
        batches=batches,
        made=made,
        executed=traced.flops(trace.jaxpr),
        products=products.counted(trace.jaxpr),
        traced_in=between - started,
        compiled_in=ended - between,
        compiled_by=after - before,
        bytes=bytes_moved,
        temporary=0 if memory is None else memory.temp_size_in_bytes,
        _compiled=program,
        _state=ready.fresh_state({}),
        _placed=ready.place(batches),
    )
    step.run()
    return step


def report(step: Step, seconds: float, product_rate: float, whose: str = "XLA's") -> list[str]:
    """The lines about a step that takes so many seconds.

    Args:
        step: it.
        seconds: of one step.
        product_rate: FLOP/s of the machine's matrix products, on one device.
        whose: they are.
    """
    lengths = {
        name: flops.of_batch(batch) for name, batch in step.batches.items() if "text_mask" in batch
    }
    counted = flops.total(flops.of_step(step.settings, lengths, step.batches))
    rate = product_rate * jax.device_count()

    def share(count, what):
        if not count:
            return "not counted: the model names no encoders (`towers`)"
        share = f"{count / seconds / rate:.1%} of {whose} product"
        return f"{share}: {count / 1e9:.2f} GFLOP {what}"

    filled = ", ".join(
        f"{name} {each.tokens.sum() / step.batches[name]['text_mask'].size:.0%}"
        for name, each in lengths.items()
    )
    return [
        f"device        {jax.device_count()} x {jax.devices()[0].device_kind}",
        f"batches       {step.made}",
        f"texts         full to {filled}" if filled else "texts         none",
        f"step          {seconds * 1e3:.1f} ms, "
        f"{step.settings.samples_per_step / seconds:.2f} samples/s",
        f"mfu_model     {share(counted.necessary, 'necessary')}",
        f"mfu_official  {share(counted.official, 'as published')}",
        f"executed      {share(step.executed, 'of traced products')}",
        f"bytes         {step.bytes / 1e9:.3f} GB read and written by the compiled program",
        f"compile       {step.compiled_in:.1f} s ({step.compiled_by:.1f} CPU-seconds), "
        f"traced in {step.traced_in:.1f} s",
        f"temporary     {step.temporary / 1e9:.3f} GB by XLA's plan, on a device",
    ]
