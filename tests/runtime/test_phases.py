"""The whole command, stopped or stalled in every phase of a run; each in a process of its own."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests import loop_runs, one_device

ROOT = pathlib.Path(__file__).parents[2]
ONE_DEVICE = os.environ | {"XLA_FLAGS": one_device.FLAGS, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
GRACE = 20

# In C, where no handler of Python runs: a mutex that is locked twice.
_COMMAND = """
import ctypes, sys, time
import orbax.checkpoint as ocp
from tests import loop_runs, tiny
from unified_fm import main, setup
from unified_fm.runtime.interruption import Interruption

def stuck(*args, **kw):
    lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
    lock(mutex)
    print("there", flush=True)
    lock(mutex)

def slow(real):
    def call(*args, **kw):
        print("there", flush=True)
        time.sleep(2)
        return real(*args, **kw)
    return call

{patch}
with Interruption() as interruption:
    interruption.leave(main._main(sys.argv, interruption))
"""
_STEP = """
real = setup.Prepared.compiled_step
def compiled(*args):
    return slow(real(*args))
setup.Prepared.compiled_step = compiled
"""
_DATA = "setup.Streams = loop_runs.streams_that(lambda given: given == 3 and stuck())"
# Phase: (what is patched, further flags, the steps that are saved afterwards).
PHASES = {
    "data warm-up": ("setup.Streams = stuck", (), []),
    "compile": ("setup.Prepared.compiled_step = stuck", (), []),
    "wait for data": (_DATA, (), [3]),
    "step": (_STEP, (), [1]),
    "evaluation": ("tiny.Evaluator.run = stuck", ("--config.evaluate.every=3",), [3]),
    "save": ("ocp.CheckpointManager.save = slow(ocp.CheckpointManager.save)", ("2",), [2]),
}


def _start(workdir, patch, *flags):
    script = _COMMAND.format(patch=patch)
    command = [sys.executable, "-c", script, "--config=tests/tiny_config.py:6"]
    command += [f"--workdir={workdir}", f"--grace_s={GRACE}", *flags]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=ONE_DEVICE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _restarted(workdir):
    process = _start(workdir, "")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def _marked(phase):
    by_night = phase in ("data warm-up", "wait for data", "evaluation")
    return pytest.param(phase, marks=pytest.mark.nightly if by_night else pytest.mark.slow)


@pytest.mark.parametrize("phase", map(_marked, PHASES))
def test_row_02_a_signal_in_every_phase_saves_and_ends_within_the_grace(run, tmp_path, phase):
    patch, flags, saved = PHASES[phase]
    workdir = tmp_path / "stopped"
    every = flags[0] if flags and flags[0].isdigit() else "100"
    flags = [flag for flag in flags if flag.startswith("--")]
    flags += [f"--config.checkpoint.every={every}"]
    config = tmp_path / "config.py"
    config.write_text(
        "from tests import tiny_config\n"
        "def get_config(argument):\n"
        "    c = tiny_config.get_config(argument)\n"
        "    c.evaluate.evaluators = dict(words=dict(name='tests.tiny'))\n"
        "    return c\n"
    )
    flags += [f"--config={config}:6"] if phase == "evaluation" else []
    process = _start(workdir, patch, *flags)
    assert process.stdout.readline() == "there\n", process.stderr.read()
    time.sleep(0.3)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 143, errors
    assert time.monotonic() - started < GRACE + 3
    if saved:
        assert loop_runs.steps(workdir) == saved, errors
        assert "saved. The same command continues" in errors or "nothing new to save" in errors
    else:
        assert "nothing to save" in errors
    assert not (workdir / "run.lock").exists()
    _restarted(workdir)
    loop_runs.same_params(workdir, run("whole", steps=6))


@pytest.mark.slow
@pytest.mark.nightly
def test_row_27_a_stalled_run_shows_its_stacks_saves_and_ends(run, tmp_path):
    workdir = tmp_path / "stalled"
    process = _start(workdir, _DATA, "--config.watchdog.minutes=0.1")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    said = "no progress for 0.1 minutes while waiting for the batch of step 4"
    assert said in errors
    stacks = (workdir / "stacks.txt").read_text()
    assert said in stacks
    assert "in stuck" in stacks
    assert loop_runs.steps(workdir) == [2, 3]
    _restarted(workdir)
    loop_runs.same_params(workdir, run("whole", steps=6))


@pytest.mark.slow
@pytest.mark.nightly
def test_row_26_a_decoder_that_crashes_leaves_its_stack_and_a_run_that_goes_on(run, tmp_path):
    workdir, source = tmp_path / "crashed", "tests.runtime.crashing:text"
    command = [sys.executable, "-m", "unified_fm.main", "--config=tests/tiny_config.py:40"]
    command += [f"--workdir={workdir}", f"--config.streams.text.source={source}"]
    crash = {"CRASH_WHEN": str(workdir / "checkpoints" / "2")}
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run(command, env=ONE_DEVICE | crash, **options)
    assert done.returncode == -signal.SIGSEGV, done.stderr
    assert "Fatal Python error: Segmentation fault" in done.stderr
    assert "crashing.py" in done.stderr  # the thread that read, among all of them
    assert 2 <= loop_runs.steps(workdir)[-1] < 40
    done = subprocess.run(command, env=ONE_DEVICE, **options)
    assert done.returncode == 0, done.stderr
    loop_runs.same_params(workdir, run("whole", steps=40, streams__text__source=source))
