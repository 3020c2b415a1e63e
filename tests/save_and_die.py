"""Saves without a pause and is killed: `python -m tests.save_and_die FOLDER KILLS SEED`.

Every process restores what the one before it has left, checks every number of it, and saves on
until it is killed at a random instant. Prints the latest step that each has found.
"""

import os
import pathlib
import random
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unified_fm.checkpoint.store import Checkpoints
from unified_fm.step import TrainState


def main(folder, kills, seed):
    rng = random.Random(seed)
    started = 0
    for number in range(kills + 1):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            save_on(folder, write)
            return
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            line = pipe.readline()
            assert line, "the process ended by itself"
            latest = int(line)
            # At most the save at work is lost, and the one that waits for it.
            assert started - 2 <= latest <= started, (started, latest)
            print(latest, flush=True)
            begun = []
            if number < kills:
                begun += [pipe.readline() for _ in range(rng.randint(1, 4))]
                time.sleep(rng.uniform(0, 0.3))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            started = max([latest, *map(int, begun + pipe.readlines())])


def save_on(folder, pipe):
    checkpoints = Checkpoints(folder, keep=2)
    latest = checkpoints.latest() or 0
    for step in checkpoints.steps():  # whatever is listed is whole
        restored, position = checkpoints.restore(target(), step)
        jax.tree.map(np.testing.assert_array_equal, restored, state(step))
        assert position == {"text": step}
    until = time.monotonic() + 30  # rubbish is removed in the background
    while rubbish := [*pathlib.Path(folder).glob("*tmp*"), *pathlib.Path(folder).glob("deleted/*")]:
        assert time.monotonic() < until, rubbish
        time.sleep(0.01)
    os.write(pipe, f"{latest}\n".encode())
    for step in range(latest + 1, 1_000_000):
        os.write(pipe, f"{step}\n".encode())
        checkpoints.save(step, state(step), position={"text": step}, config={})


def state(step):
    params = {"a": {"kernel": jnp.full((64, 48), step, jnp.float32)}, "b": jnp.float32(step)}
    return TrainState(step=jnp.int32(step), params=params, opt_state=optax.adam(1.0).init(params))


def target():
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), state(0))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
