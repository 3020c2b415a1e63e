"""The published program in a process of its own, which makes a step whenever it is told to.

    python -m unified_fm.bench.published.worker FOLDER

FOLDER has `program.json` and `batches.npz`. Lines of JSON come in and go out: {"do": "step"} is
answered by {"seconds": ...}, "memory" by the most bytes used, "product" by the FLOP/s of a matrix
product. The process ends when nothing can come in any more.
"""

import json
import os
import pathlib
import resource
import sys
import time

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from unified_fm.bench.published.model import Sizes, seeded
from unified_fm.bench.published.program import Program, Training


def main(folder: str) -> None:
    """Makes the program and serves until the end of standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    path = pathlib.Path(folder)
    given = json.loads((path / "program.json").read_text())
    torch.set_num_threads(os.cpu_count() or 1)
    device = given["device"]
    program = Program(
        seeded(Sizes.of(given["sizes"]), given["seed"]),
        Training(**given["training"]),
        _batches(path / "batches.npz"),
        device,
    )
    for line in sys.stdin:
        answer = _answer(program, json.loads(line)["do"], given["training"]["half"])
        print(json.dumps(answer), file=answers, flush=True)


def _answer(program: Program, asked: str, half: bool) -> dict:
    if asked == "step":
        return {"seconds": program.timed()}
    if asked == "memory":
        return {"bytes": _memory(program.device)}
    return {"rate": product_rate(program.device, torch.bfloat16 if half else torch.float32)}


def product_rate(device: str, dtype, sizes=(1024, 2048, 4096, 8192)) -> float:
    """FLOP/s of the fastest of some square matrix products of random numbers."""
    best, repeats = 0.0, 20 if device == "cuda" else 1
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        times = []
        for turn in range(4):
            started = time.perf_counter()
            for _ in range(repeats):
                _ = a @ b
            if device == "cuda":
                torch.cuda.synchronize()
            times += [time.perf_counter() - started] if turn else []
        best = max(best, repeats * 2 * size**3 / min(times))
        if sum(times) > 3.0:
            break
    return best


def _memory(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _batches(path: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            stream, array = name.split("/", 1)
            found.setdefault(stream, {})[array] = file[name]
    return found


if __name__ == "__main__":
    main(sys.argv[1])
