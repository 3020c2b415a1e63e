"""python -m tests.runtime.rows_of_regions PROCESS COUNT PORT LOCAL MESH ORDER

One of COUNT processes with LOCAL simulated devices each, laid on the mesh MESH (data, fsdp, tensor)
in the order ORDER. Process 0 prints, for two batches, each region row's id and the mean of its
image, as the step would find it: by the place in the group.
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

import jax.numpy as jnp  # noqa: E402

from unified_fm import groups, sharding  # noqa: E402
from unified_fm.data.batching import Part  # noqa: E402
from unified_fm.data.streams import Streams, stream  # noqa: E402

GROUPS = 4
REGIONS = stream(
    "regions",
    "synthetic:regions:64",
    24,
    images=12,
    groups=GROUPS,
    size=16,
    patch_size=8,
    max_len=8,
)


def look(batch):
    means = batch["image"].astype(jnp.float32).mean((1, 2, 3))
    seen = groups.take(means, batch["image_index"], GROUPS)
    return batch["example_id"], seen * batch["weight"]


devices = jax.devices()
axes = dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))
mesh = sharding.make_mesh(**axes, devices=[devices[k] for k in order])
opened = Streams(
    {"regions": REGIONS}, seed=0, tokenizer="bytes", part=Part(*sharding.own_shards(mesh))
)
whole = jax.jit(look, out_shardings=sharding.replicated(mesh))
found = []
for _ in range(2):
    ids, means = whole(sharding.global_batches(mesh, next(opened))["regions"])
    found.append([ids.tolist(), [round(x, 3) for x in means.tolist()]])
opened.close()
if process == 0:
    print(json.dumps(found))
