"""python -m tests.collectives DEVICES MESH [KEY=VALUE ...]

Compiles the step of `xfm_base:smoke`, two rows of every stream and two images on each of DEVICES
simulated devices, laid on MESH ("data=8,fsdp=1"), and prints what a device receives in one step:
{kind of collective: bytes of its results}.
"""

import json
import os
import sys

ROWS = 2


def main(devices, mesh, changes):
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    import jax

    from unified_fm import setup
    from unified_fm.config import file
    from unified_fm.planning import hlo, traffic

    jax.config.update("jax_disable_most_optimizations", True)
    sizes = [f"mesh.{part}" for part in mesh.split(",")]
    rows = [f"streams.{name}.batch_size={ROWS * devices}" for name in ("text", "image")]
    for name in ("pairs", "regions"):
        rows += [f"streams.{name}.batch_size={ROWS * devices}", f"streams.{name}.groups={devices}"]
    rows.append(f"streams.regions.images={ROWS * devices}")
    ready = setup.prepare(file.load("configs/xfm_base.py:smoke", [*sizes, *rows, *changes]))
    lowered = ready.train_step().lower(ready.target, {}, ready.batches)
    module = hlo.parse(lowered.compile().as_text())
    print(json.dumps(traffic.by_kind(traffic.of(module, devices))))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
