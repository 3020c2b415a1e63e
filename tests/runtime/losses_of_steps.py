"""python -m tests.runtime.losses_of_steps PROCESS COUNT PORT LOCAL MESH ORDER

One of COUNT processes with LOCAL simulated devices each, laid on the mesh MESH (data, fsdp, tensor)
in the order ORDER. Process 0 prints the metrics of two steps of `xfm_base:smoke`, whose rows are in
groups that four parts of a batch may have.
"""

import json
import os
import sys

process, count, port, local = map(int, sys.argv[1:5])
sizes, order = json.loads(sys.argv[5]), json.loads(sys.argv[6])
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={local}"

import jax  # noqa: E402  (after the flags that it reads)

if count > 1:
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=count, process_id=process)
jax.config.update("jax_disable_most_optimizations", True)

from unified_fm import setup  # noqa: E402
from unified_fm.config import file  # noqa: E402

changes = [f"mesh.{axis}={n}" for axis, n in zip(("data", "fsdp", "tensor"), sizes, strict=True)]
changes += [f"streams.{name}.groups=4" for name in ("pairs", "regions")]
changes += ["rules.sharding=tensor", "model.layer_loop=scan"]
devices = jax.devices()
ready = setup.prepare(
    file.load("configs/xfm_base.py:smoke", changes), devices=[devices[k] for k in order]
)
streams = ready.open_streams()
state, step, found = ready.fresh_state({}), ready.train_step(), []
for _ in range(2):
    state, metrics = step(state, {}, ready.place(next(streams)))
    found.append({name: float(value) for name, value in metrics.items()})
streams.close()
if process == 0:
    print(json.dumps(found))
