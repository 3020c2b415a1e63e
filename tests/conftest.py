"""Settings that must stand before anything imports JAX."""

import logging
import os
import pathlib

import pytest
from absl import flags

_DEVICES = "--xla_force_host_platform_device_count"
_CACHE = pathlib.Path(__file__).parents[1] / ".cache" / "jax_tests"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# XLA's older way to make code for loops compiles most tests in two thirds of the time. A flag that
# is set already stays: .ci/nightly runs the tests as users' programs are compiled.
for flag, value in {_DEVICES: 8, "--xla_cpu_use_fusion_emitters": "false"}.items():
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}={value}".strip()
os.environ.setdefault("NPROC", "128")  # threads, see main._give_threads

# Compiled programs are kept between runs, also for the processes that tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

# Grain's worker processes refuse to start where no program has parsed its flags.
flags.FLAGS.mark_as_parsed()


@pytest.fixture(autouse=True)
def _logs_are_seen(monkeypatch):
    """A command that ran in this process has turned the log away from where caplog listens."""
    monkeypatch.setattr(logging.getLogger("unified_fm"), "propagate", True)


@pytest.fixture
def run(tmp_path, caplog, monkeypatch):
    """Trains in this process, on one device: run(name, key=value, a__b=value) -> workdir."""
    from tests import loop_runs  # imports JAX

    yield from loop_runs.running(tmp_path, caplog, monkeypatch)


@pytest.fixture(scope="module")
def compile_quickly():
    """Half the time of compilation, for modules whose programs are small."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
