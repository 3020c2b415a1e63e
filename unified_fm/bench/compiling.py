"""What compiling the step costs, and what the program needs: loops and rematerialisation."""

import time

from unified_fm import setup
from unified_fm.bench import machine, measured, traced
from unified_fm.config import chosen
from unified_fm.config.settings import Settings
from unified_fm.data import tokenizer as tokenizers
from unified_fm.models.config import CHOICES
from unified_fm.models.parts import Stacks

LOOPS = ("unrolled", "scan")


def report(settings: Settings) -> list[str]:
    """Compiles the step with every `layer_loop` and `remat`; returns the lines.

    Raises:
        ValueError: a model that has no such options.
    """
    model = chosen.model(settings.model)
    if not isinstance(model, Stacks):
        raise ValueError(f"{type(model).__module__} has no options layer_loop and remat")
    columns = f"{'trace s':>9} {'compile s':>9} {'CPU s':>9} {'GFLOP':>10} {'moved GB':>9}"
    lines = [f"{'step':<28} {columns} {'temp GB':>9} {'code MB':>9}"]
    for loop in LOOPS:
        for remat in CHOICES["remat"]:
            changed = {**settings.model, "layer_loop": loop, "remat": remat}
            lines.append(_line(f"{loop}, remat={remat}", settings.replace(model=changed)))
    return lines


def _line(name: str, settings: Settings) -> str:
    ready = setup.prepare(settings, tokenizer=tokenizers.load("bytes"))
    started, before = time.perf_counter(), machine.cpu_seconds()
    trace = ready.train_step().trace(ready.target, {}, ready.batches)
    lowered = trace.lower()
    between = time.perf_counter()
    program = lowered.compile()
    compiled, cpu = time.perf_counter() - between, machine.cpu_seconds() - before
    memory = program.memory_analysis()
    temporary = 0 if memory is None else memory.temp_size_in_bytes
    code = 0 if memory is None else memory.generated_code_size_in_bytes
    return (
        f"{name:<28} {between - started:9.1f} {compiled:9.1f} {cpu:9.1f}"
        f" {traced.flops(trace.jaxpr) / 1e9:10.2f} {measured.moved(program) / 1e9:9.3f}"
        f" {temporary / 1e9:9.3f} {code / 1e6:9.2f}"
    )
