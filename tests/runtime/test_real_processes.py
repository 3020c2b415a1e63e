"""Two real processes of one run, as on two hosts, under what happens to hosts."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests import one_device
from tests.runtime.meeting import free_port

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
ENV = os.environ | {
    "XLA_FLAGS": one_device.FLAGS,
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "PYTHONPATH": str(ROOT),
}
SPLIT = ("--config.mesh.fsdp=2", "--config.rules.sharding=fsdp")
# A host that says nothing for a minute is lost; a test does not wait so long.
SOONER = (
    "import runpy\n"
    "from unified_fm.runtime import link\n"
    "link._SILENCE = 6.0\n"
    "runpy.run_module('unified_fm.main', run_name='__main__', alter_sys=True)\n"
)


class _Two:
    """Two processes; `errors()` is what they wrote."""

    def __init__(self, folder, *flags, steps=4, per=None, env=None, cwd=None, program=None):
        self.workdir = folder / "run"
        command = [sys.executable, *(("-c", program) if program else ("-m", "unified_fm.main"))]
        command += [f"--config={ROOT}/tests/tiny_config.py:{steps}", f"--workdir={self.workdir}"]
        address = f"--coordinator=127.0.0.1:{free_port()}"
        self._files = [folder / f"{i}.err" for i in range(2)]
        self.processes = []
        for i, file in enumerate(self._files):
            named = [] if env and "SLURM_PROCID" in env[i] else [address, f"--process={i}/2"]
            with open(file, "w") as err:
                self.processes.append(
                    subprocess.Popen(
                        [*command, *SPLIT, *flags, *(per or {}).get(i, ()), *named],
                        cwd=cwd[i] if cwd else ROOT,
                        env=ENV | (env[i] if env else {}),
                        stderr=err,
                    )
                )

    def lines(self):
        path = self.workdir / "metrics.jsonl"
        whole = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in whole]

    def until_step(self, step):
        end = time.monotonic() + 300
        while len(self.lines()) < step:
            ended = [process.poll() for process in self.processes]
            assert ended == [None, None] and time.monotonic() < end, self.errors()
            time.sleep(0.05)

    def wait(self, seconds=300):
        """Exit codes, and the seconds until both had ended."""
        started = time.monotonic()
        codes = [process.wait(seconds) for process in self.processes]
        return codes, time.monotonic() - started

    def errors(self):
        return [file.read_text() for file in self._files]

    def saved(self):
        names = (path.name for path in (self.workdir / "checkpoints").iterdir())
        return sorted(int(name) for name in names if name.isdigit())


@pytest.fixture
def two(tmp_path):
    with contextlib.ExitStack() as stack:

        def go(*flags, **options):
            run = _Two(tmp_path, *flags, **options)
            for process in run.processes:
                stack.enter_context(process)  # waits, after the next one
                stack.callback(process.kill)
            return run

        yield go


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (
            "--config.optimizer.lr=0.02",
            "config.optimizer.lr = 0.02, worker 0 has 0.01",
        ),
        ("--config.total_steps=6", "config.total_steps = 6, worker 0 has 4"),
    ],
)
def test_C1_another_config_on_one_worker_is_refused_by_both(two, flag, said):
    run = two(per={1: [flag]})
    assert run.wait()[0] == [2, 2]
    assert all(
        f"refused: the workers were not started alike:\n  worker 1 has {said}" in e
        for e in run.errors()
    )
    assert not run.workdir.exists()


def test_C1_other_data_on_one_worker_is_refused_by_both(two, tmp_path):
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        lines = [json.dumps({"text": f"some words {n}"}) for n in range(100 + i)]
        (tmp_path / str(i) / "own.jsonl").write_text("\n".join(lines))
    flag = "--config.streams.text.source=jsonl:own.jsonl"
    run = two(flag, cwd=[tmp_path / "0", tmp_path / "1"])
    assert run.wait()[0] == [2, 2]
    for error in run.errors():
        assert "worker 1 has stream text: records = 101, worker 0 has 100" in error
        assert "Traceback" not in error


def test_C2_a_worker_that_is_not_started_is_named(tmp_path):
    command = [sys.executable, "-m", "unified_fm.main", "--config=tests/tiny_config.py:4"]
    command += [f"--workdir={tmp_path / 'run'}", f"--coordinator=127.0.0.1:{free_port()}"]
    command += ["--process=0/2", "--start_timeout=2"]
    done = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert "refused: 1 of 2 workers is here; missing: 1; waited 2 s. Start this on all 2" in (
        done.stderr
    )


def test_C2_a_cluster_whose_scheduler_names_the_processes(two):
    port = str(free_port())
    names = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2"}
    names["JAX_COORDINATOR_PORT"] = port
    env = [names | {"SLURM_PROCID": str(i), "SLURM_LOCALID": "0"} for i in range(2)]
    run = two(env=env)
    assert run.wait()[0] == [0, 0], run.errors()
    assert run.saved() == [2, 4]


@pytest.mark.parametrize(
    "who, signum",
    [
        (0, signal.SIGINT),
        (1, signal.SIGTERM),
        pytest.param(0, signal.SIGTERM, marks=pytest.mark.nightly),
        pytest.param(1, signal.SIGINT, marks=pytest.mark.nightly),
    ],
)
def test_C3_a_signal_to_one_saves_and_stops_both(two, who, signum):
    run = two("--config.checkpoint.every=100000", steps=100000)
    run.until_step(20)
    run.processes[who].send_signal(signum)
    codes, seconds = run.wait()
    assert codes == [128 + signum] * 2, run.errors()
    assert seconds < 60
    assert run.saved() == [run.lines()[-1]["step"]]
    for error in run.errors():
        assert f"{signum.name} on worker {who}: all stop after the same step" in error
        assert f"stopped after step {run.saved()[0]}; saved" in error
        assert "is gone" not in error


def test_C3_a_signal_before_the_first_step_ends_both(two):
    run = two("--start_timeout=200", steps=100000)
    end = time.monotonic() + 200
    while not (run.workdir / "run.lock").exists() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(2)  # into the imports or the compilation, wherever that is
    run.processes[0].send_signal(signal.SIGTERM)
    codes, seconds = run.wait()
    assert codes == [143, 143], run.errors()
    assert seconds < 60
    assert not (run.workdir / "run.lock").exists()


@pytest.mark.nightly
def test_C5_two_processes_evaluate_to_the_numbers_of_one(two):
    evaluator = "--config.evaluate.evaluators.size.name=tests.tiny"
    run = two(evaluator)
    assert run.wait()[0] == [0, 0], run.errors()
    [found] = [line["size/size"] for line in run.lines() if "size/size" in line]
    command = [sys.executable, "-m", "unified_fm.main", f"--workdir={run.workdir}", evaluator]
    command += ["--config=tests/tiny_config.py:4", "--config.mode=evaluate"]
    done = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    alone = [line["size/size"] for line in run.lines() if "size/size" in line][-1]
    assert found == pytest.approx(alone, rel=1e-6)
    assert found > 0


@pytest.mark.parametrize("victim", [1, 0])
@pytest.mark.nightly
def test_C4_kill_of_one_ends_the_other_and_the_run_continues(two, victim):
    run = two("--config.checkpoint.every=20", steps=120)
    run.until_step(45)
    run.processes[victim].kill()
    codes, seconds = run.wait()
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] not in (0, -signal.SIGKILL)
    assert seconds < 20
    assert f"worker {victim}, which was at step" in run.errors()[1 - victim]
    assert "is gone: its connection was closed" in run.errors()[1 - victim]
    assert (run.workdir / "run.lock").exists() == (victim == 0)
    before, saved = run.lines(), run.saved()[-1]
    assert saved >= 20
    again = two("--config.checkpoint.every=20", steps=120)
    assert again.wait()[0] == [0, 0], again.errors()
    assert f"resumed from step {saved}" in again.errors()[0]
    after = again.lines()
    assert [line["step"] for line in after] == list(range(1, 121))
    for old, new in zip(before, after, strict=False):
        assert new["text/mlm"] == old["text/mlm"]  # also of the steps that were made twice


@pytest.mark.nightly
def test_row_27_a_host_that_stands_still_ends_the_run(two):
    run = two("--config.checkpoint.every=10", steps=100000, program=SOONER)
    run.until_step(25)
    os.kill(run.processes[1].pid, signal.SIGSTOP)
    assert run.processes[0].wait(100) == 1
    assert "is gone: it has given no sign of life for" in run.errors()[0]
    os.kill(run.processes[1].pid, signal.SIGCONT)  # it comes back, and finds that it was given up
    assert run.processes[1].wait(100) not in (0, None)
    assert run.saved()[-1] >= 20
    assert not (run.workdir / "run.lock").exists()


STUCK = (
    "import os, runpy, threading\n"
    "from unified_fm.data.streams import Streams\n"
    "real = Streams.__next__\n"
    "def stuck(self):\n"
    "    if os.environ['STUCK'] == 'yes' and self._samples['text'] >= 8 * 20:\n"
    "        threading.Event().wait()\n"
    "    return real(self)\n"
    "Streams.__next__ = stuck\n"
    "runpy.run_module('unified_fm.main', run_name='__main__', alter_sys=True)\n"
)


@pytest.mark.nightly
def test_D11_a_worker_that_waits_for_ever_ends_all_with_stacks_and_steps(two):
    run = two(
        "--config.checkpoint.every=10",
        "--config.watchdog.minutes=0.3",
        steps=100000,
        program=STUCK,
        env=[{"STUCK": "no"}, {"STUCK": "yes"}],
    )
    assert run.wait()[0] == [1, 1], run.errors()
    stacks = (run.workdir / "stacks.txt").read_text()
    for index, error in enumerate(run.errors()):
        assert "no progress for 0.3 minutes" in error
        assert "worker 0 at step 2" in error
        assert "worker 1 at step " in error
        assert f"this is worker {index}" in error
        assert f"this is worker {index}" in stacks
    assert "in stuck" in run.errors()[1]
    assert run.saved()[-1] in (10, 20)
    assert not (run.workdir / "run.lock").exists()


@pytest.mark.nightly
def test_row_29_a_workdir_in_use_is_refused_by_all_workers(two, tmp_path):
    first = two("--config.checkpoint.every=100000", steps=100000)
    first.until_step(5)
    files = [file.rename(file.with_suffix(".first")) for file in first._files]
    second = two()
    assert second.wait()[0] == [1, 1], second.errors()
    assert f"is used by process {first.processes[0].pid} on host" in second.errors()[0]
    assert "worker 0 has ended with an error: Locked: " in second.errors()[1]
    assert [process.poll() for process in first.processes] == [None, None]
    assert all("is gone" not in file.read_text() for file in files)
