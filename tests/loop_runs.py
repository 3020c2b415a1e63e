"""Runs of the tiny config in the test's own process, and what to look at in their workdirs."""

import functools
import json
import logging
import os
import resource
import threading
import time

import jax
import numpy as np

from tests import tiny_config
from unified_fm import setup, sharding, train
from unified_fm.checkpoint import store as checkpoint
from unified_fm.config import file as config_file
from unified_fm.config import python
from unified_fm.runtime.interruption import Interruption


def running(tmp_path, caplog, monkeypatch):
    """The fixture `run`: see conftest."""
    jax.config.update("jax_disable_most_optimizations", True)  # compiles in half the time
    one = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", one)
    caplog.set_level(logging.INFO, logger="unified_fm")
    logging.getLogger("unified_fm").propagate = True

    def go(name="run", steps=6, mode=train.train, **changes):
        workdir = tmp_path / name
        workdir.mkdir(exist_ok=True)
        with Interruption() as go.stop:
            mode(config(steps, **changes), workdir, go.stop)
        return workdir

    yield go
    jax.config.update("jax_disable_most_optimizations", False)


def config(steps=6, **changes):
    """The settings of the tiny config, checked."""
    config = python.plain(tiny_config.get_config(str(steps)))
    for path, value in changes.items():
        *parents, last = path.split("__")
        owner = config
        for key in parents:
            owner = owner[key]
        owner[last] = value
    return config_file.made(config)


def lines(workdir):
    """What the log of a run holds."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def same_params(a, b, rtol=0.0, atol=0.0):
    """Asserts that two runs ended with the same parameters, without a tolerance bit for bit."""
    a, b = checkpoint.load_params(a), checkpoint.load_params(b)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), a, b)


def steps(workdir):
    """The steps that are saved."""
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


class SlowStreams:
    """Real streams that never give more than a number of batches."""

    @classmethod
    def after(cls, count):
        real = setup.Streams
        stuck = threading.Event()

        class Slow:
            def __init__(self, *args, **options):
                self.inner = real(*args, **options)
                self.given = 0

            def __next__(self):
                if self.given == count:
                    stuck.set()
                    for _ in range(2000):
                        time.sleep(0.01)
                self.given += 1
                return next(self.inner)

            def __getattr__(self, name):
                return getattr(self.inner, name)

            @staticmethod
            def send_when_stuck(signum):
                assert stuck.wait(100)
                time.sleep(0.05)
                os.kill(os.getpid(), signum)

        return Slow


def streams_that(act):
    """In place of `setup.Streams`: calls act(batches given so far) before each batch."""
    real = setup.Streams

    class Acting:
        def __init__(self, *args, **options):
            self.inner = real(*args, **options)
            self.given = 0

        def __next__(self):
            act(self.given)
            self.given += 1
            return next(self.inner)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    return Acting


def wait_until(true, seconds=60):
    """Waits for what another thread or process does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


class no_large_files:
    """Makes writes beyond 100 bytes fail, as a full disk would (EFBIG stands in for ENOSPC)."""

    def __enter__(self):
        self.soft, self.hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, self.hard))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.soft, self.hard))
