"""python -m tests.collectives DEVICES MESH [KEY=VALUE ...]

Compiles the step of `xfm_base:smoke`, two rows of every stream and two images on each of DEVICES
simulated devices, laid on MESH ("data=8,fsdp=1"), and prints what a device receives in one step:
{kind of collective: bytes of its results}.
"""

import collections
import json
import os
import re
import sys

SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
LINE = re.compile(rf"\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ({KINDS})(?:-start)?\(")
ROWS = 2


def of(text):
    """{kind: bytes} of the collectives in the text of a compiled program without loops."""
    found = collections.Counter()
    for line in text.splitlines():
        if match := LINE.match(line):
            shapes = re.findall(r"\b(\w+)\[([\d,]*)\]", match[1])
            sizes = [SIZES[kind] * _count(dims) for kind, dims in shapes if kind in SIZES]
            found[match[2]] += sum(sizes)
    return dict(found)


def _count(dimensions):
    total = 1
    for length in filter(None, dimensions.split(",")):
        total *= int(length)
    return total


def main(devices, mesh, changes):
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    import jax

    from unified_fm import setup
    from unified_fm.config import file

    jax.config.update("jax_disable_most_optimizations", True)
    sizes = [f"mesh.{part}" for part in mesh.split(",")]
    rows = [f"streams.{name}.batch_size={ROWS * devices}" for name in ("text", "image")]
    for name in ("pairs", "regions"):
        rows += [f"streams.{name}.batch_size={ROWS * devices}", f"streams.{name}.groups={devices}"]
    rows.append(f"streams.regions.images={ROWS * devices}")
    ready = setup.prepare(file.load("configs/xfm_base.py:smoke", [*sizes, *rows, *changes]))
    lowered = ready.train_step().lower(ready.target, {}, ready.batches)
    print(json.dumps(of(lowered.compile().as_text())))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
