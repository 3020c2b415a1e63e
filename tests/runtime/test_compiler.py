"""Presets of compiler flags: known to our JAX, beside the user's own, in time or not at all."""

import os
import subprocess
import sys

import jax
import pytest

from unified_fm.config import xla
from unified_fm.planning import topologies
from unified_fm.runtime import compiler

GPU = [name for name in xla.PRESETS if name.startswith("gpu")]
TPU = [name for name in xla.PRESETS if name.startswith("tpu")]
COMPILE = "import jax; print(jax.jit(lambda x: x + 1)(1))"
DESCRIBE = """
from unified_fm.planning import topologies
topologies.prepare(1)
print(len(topologies.devices(topologies.parse("v6e:2x2"), "tpu")))
"""


def start(flags, variable=xla.XLA, script=COMPILE):
    """A new process that starts a compiler with these flags."""
    return subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {variable: " ".join(flags), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_flag_for_gpus_is_known_to_the_jax_that_we_lock():
    """XLA ends a process at an unknown one. Those for TPUs are read by libtpu alone."""
    assert {xla.PRESETS[name][0] for name in GPU} == {"XLA_FLAGS"}
    flags = dict.fromkeys(flag for name in GPU for flag in xla.PRESETS[name][1])
    found = start(flags)
    assert found.stdout.strip() == "2", found.stderr
    wrong = start([*flags, "--xla_gpu_makes_it_fast=true"])
    assert wrong.returncode != 0 and "xla_gpu_makes_it_fast" in wrong.stderr


@pytest.mark.nightly
@pytest.mark.skipif(not topologies.installed("tpu"), reason=topologies.install("tpu"))
@pytest.mark.parametrize("name", TPU)
def test_every_flag_for_tpus_is_known_to_libtpu(name):
    """It reads them when it first describes a slice, which needs no TPU."""
    variable, flags = xla.PRESETS[name]
    flags = [*xla.NEEDED[1], *flags]
    found = start(flags, variable, DESCRIBE)
    assert found.stdout.strip() == "4", found.stderr
    wrong = start([*flags, "--xla_tpu_makes_it_fast=true"], variable, DESCRIBE)
    assert wrong.returncode != 0 and "xla_tpu_makes_it_fast" in wrong.stderr


def test_flags_of_the_environment_win(monkeypatch, caplog):
    monkeypatch.setattr(compiler.xla_bridge, "backends_are_initialized", lambda: False)
    own = "--xla_gpu_enable_latency_hiding_scheduler=false --xla_dump_to=x"
    monkeypatch.setenv("XLA_FLAGS", own)
    caplog.set_level("INFO")
    compiler.use("gpu-default")
    _, flags = xla.PRESETS["gpu-default"]
    assert os.environ["XLA_FLAGS"].split() == [*own.split(), *flags[1:]]
    assert flags[1] in caplog.text
    assert f"as the environment says, not the preset: {flags[0]}" in caplog.text
    before = os.environ["XLA_FLAGS"]
    compiler.use("gpu-default")  # a second time nothing is new
    assert os.environ["XLA_FLAGS"] == before


def test_tpu_flags_are_where_libtpu_reads_them(monkeypatch):
    monkeypatch.setattr(compiler.xla_bridge, "backends_are_initialized", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "")
    compiler.use("tpu-default")
    assert os.environ["XLA_FLAGS"] == "--a=1"
    wanted = [*xla.NEEDED[1], *xla.PRESETS["tpu-default"][1]]
    assert os.environ["LIBTPU_INIT_ARGS"].split() == wanted


def test_what_keeps_libtpu_from_crashing_is_always_there(monkeypatch, caplog):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--b=2")
    jax.devices()
    compiler.use("")  # too late, but these are no TPUs
    assert os.environ["LIBTPU_INIT_ARGS"] == "--b=2" and not caplog.text
    monkeypatch.setattr(compiler.jax, "default_backend", lambda: "tpu")
    compiler.use("")
    assert "LIBTPU_INIT_ARGS='--xla_tpu_dot_dot_fusion=false'" in caplog.text
    monkeypatch.setattr(compiler.xla_bridge, "backends_are_initialized", lambda: False)
    compiler.use("")
    assert os.environ["LIBTPU_INIT_ARGS"] == "--b=2 --xla_tpu_dot_dot_fusion=false"
    # Who has said otherwise is not overruled.
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_dot_dot_fusion=true")
    compiler.use("")
    assert os.environ["LIBTPU_INIT_ARGS"] == "--xla_tpu_dot_dot_fusion=true"


def test_flags_that_come_too_late_are_refused(monkeypatch):
    jax.devices()
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    with pytest.raises(ValueError, match=r"in use already.* Set XLA_FLAGS before"):
        compiler.use("gpu-default")
    assert os.environ["XLA_FLAGS"] == "--a=1"
    compiler.use("")  # none is never late
