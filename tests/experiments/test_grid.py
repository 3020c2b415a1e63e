"""Arms times seeds: results.json grows by groups, and the same command goes on."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import batches, grid, seeds, workers
from tests import ufm_runs
from unified_fm import setup

ARMS = {"plain": {}, "slow": {"optimizer.lr": 0.001}}


class Learnt:
    """Stands for `seeds.train`: says which runs it was asked for."""

    def __init__(self, monkeypatch):
        self.asked, self.refused = [], 0
        monkeypatch.setattr(grid.together, "train", self)

    def __call__(self, runs, progress):
        self.asked.append((runs[0].optimizer.lr, [run.seed for run in runs]))
        progress(runs[0].total_steps)
        scores = [{"loss": 10.0 * run.optimizer.lr + run.seed} for run in runs]
        return SimpleNamespace(
            curves={"text/mlm": np.full((len(runs), 2), 1.23456)},
            refused=np.full(len(runs), self.refused),
            evaluate=lambda folder: (scores, {"loss": 7.0}),
        )


@pytest.fixture
def learnt(monkeypatch):
    return Learnt(monkeypatch)


def tiny(**changes):
    made = grid.Grid(spec="tests/tiny_config.py:3", arms=ARMS, seeds=[0, 1, 2], group=2)
    return dataclasses.replace(made, **changes)


def test_every_arm_has_each_group_before_the_next_group(learnt, tmp_path):
    found = tiny().run(tmp_path)
    assert learnt.asked == [(0.01, [0, 1]), (0.001, [0, 1]), (0.01, [2]), (0.001, [2])]
    assert found == json.loads((tmp_path / "results.json").read_text())
    entry = found["arms"]["slow"]["seeds"]["2"]
    assert entry["scores"] == {"loss": pytest.approx(2.01)}
    assert entry["curves"] == {"text/mlm": [1.2346, 1.2346]}
    assert found["arms"]["slow"]["changes"] == {"optimizer.lr": 0.001}
    assert found["floors"] == {"loss": 7.0}
    assert found["settings"]["total_steps"] == 3


def test_the_same_command_goes_on(learnt, tmp_path):
    first = tiny(seeds=[0]).run(tmp_path)
    found = tiny().run(tmp_path)
    assert learnt.asked == [(0.01, [0]), (0.001, [0]), *[(0.01, [1]), (0.001, [1])],
                            *[(0.01, [2]), (0.001, [2])]]  # fmt: skip
    assert found["arms"]["plain"]["seeds"]["0"] == first["arms"]["plain"]["seeds"]["0"]
    tiny().run(tmp_path)
    assert len(learnt.asked) == 6


def test_a_group_that_was_interrupted_is_made_again(learnt, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    tiny(seeds=[0]).run(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(grid.together, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            tiny().run(tmp_path)
    assert list(json.loads((tmp_path / "results.json").read_text())["arms"]["plain"]["seeds"]) == [
        "0"
    ]
    assert len(tiny().run(tmp_path)["arms"]["slow"]["seeds"]) == 3


def test_results_of_other_settings_are_refused(learnt, tmp_path):
    tiny().run(tmp_path)
    with pytest.raises(ValueError, match=r"optimizer/clip: 1\.0 there, 0\.5 now"):
        tiny(common=["optimizer.clip=0.5"]).run(tmp_path)
    with pytest.raises(ValueError, match=r"slow: optimizer\.lr: 0\.001 there, 0\.002 now"):
        tiny(arms={"slow": {"optimizer.lr": 0.002}}).run(tmp_path)
    assert len(learnt.asked) == 4


def test_an_arm_with_a_step_that_was_not_finite_is_void(learnt, tmp_path):
    tiny(seeds=[0], arms={"plain": {}}).run(tmp_path)
    learnt.refused = 2
    found = tiny(seeds=[0]).run(tmp_path)
    assert {arm: entry["void"] for arm, entry in found["arms"].items()} == {
        "plain": False,
        "slow": True,
    }
    assert found["arms"]["slow"]["seeds"]["0"]["refused"] == 2


def test_two_seeds_of_the_teachers_take_turns(monkeypatch, tmp_path):
    made = []

    def train(settings, workdir, stop):
        made.append((settings.seed, workdir.name))
        (workdir / "metrics.jsonl").write_text('{"loss": 3}\n{"loss": 2}\n')

    monkeypatch.setattr(grid.train, "train", train)
    own = {"config": ufm_runs.config().plain(), "streams": ["image", "text"]}
    settings = ufm_runs.config(teachers={"vit": own, "bert": own})
    runs = [grid.run_of(tmp_path, settings, seed) for seed in (0, 1, 2)]
    assert [run.seed for run in runs] == [0, 1, 2]
    where = [run.teachers["vit"].path for run in runs]
    assert where[0] == where[2] == str(tmp_path / "teachers/1000/teachers/vit")
    assert where[1] == str(tmp_path / "teachers/1001/teachers/vit")
    assert set(made) == {(1000, "vit"), (1000, "bert"), (1001, "vit"), (1001, "bert")}


def test_each_teacher_is_a_job_once():
    own = {"config": ufm_runs.config().plain(), "streams": ["image", "text"]}
    taught = ufm_runs.config(teachers={"vit": own, "bert": own})
    arms = {"alone": ufm_runs.config(), "kd": taught}
    assert grid._teachers(arms, [("alone", [0, 1]), ("kd", [0, 2]), ("kd", [3])]) == [
        ("kd", [0], "vit"),
        ("kd", [0], "bert"),
        ("kd", [3], "vit"),
        ("kd", [3], "bert"),
    ]


def test_batches_that_were_kept_are_those_of_the_run(tmp_path):
    work = tiny(batches=tmp_path / "batches", seeds=[4])
    jobs = work._unrecorded([("plain", [4]), ("slow", [4])])
    settings = work.settings({})
    assert [(arm, seeds) for arm, seeds, _ in jobs] == [("plain", [4])] * len(settings.streams)
    steps = []
    for job in jobs:
        grid._record(work, tmp_path, *job, progress=steps.append)
    assert steps == [1, 2, 3] * len(jobs)
    ready = setup.prepare(seeds.of_seed(settings, 4))
    kept = batches.Recorded(ready, tmp_path / "batches")
    with contextlib.closing(ready.open_streams()) as streams:
        for _ in range(3):
            found, wanted = next(kept), next(streams)
            jax.tree.map(np.testing.assert_array_equal, found, wanted)
    other = setup.prepare(seeds.of_seed(settings, 5))
    with pytest.raises(FileNotFoundError):
        batches.Recorded(other, tmp_path / "batches")


def test_batches_that_an_arm_with_teachers_is_first_to_need(learnt, monkeypatch, tmp_path):
    def teach(settings, workdir, stop):
        (workdir / "metrics.jsonl").write_text('{"loss": 2}\n')

    recorded = []
    monkeypatch.setattr(grid.train, "train", teach)
    monkeypatch.setattr(grid.kept, "record", lambda run, *_: recorded.append(run))
    monkeypatch.setattr(
        grid.together, "train", lambda runs, progress, open_streams: learnt(runs, progress)
    )
    own = {"config": "tests/tiny_config.py:3", "streams": ["text"]}
    asked = {"weight": 1.0, "teacher": "bert", "of": "mlm"}
    taught = {"teachers": {"bert": own}, "streams.text.objectives.distill": asked}
    work = tiny(arms={"taught": taught}, seeds=[3], batches=tmp_path / "batches")
    work.run(tmp_path)
    assert len(recorded) == len(work.settings({}).streams)
    assert {run.teachers["bert"].path for run in recorded} == {
        str(tmp_path / "teachers/1001/teachers/bert")
    }


def test_progress_counts_the_steps_of_a_teacher_and_of_what_is_left(caplog, monkeypatch):
    monkeypatch.setattr(grid.time, "monotonic", iter([0.0, 60.0, 120.0]).__next__)
    own = {"config": "tests/tiny_config.py:5", "streams": ["text"]}
    asked = {"weight": 1.0, "teacher": "bert", "of": "mlm"}
    arms = {"kd": {"teachers": {"bert": own}, "streams.text.objectives.distill": asked}}
    progress = grid._Progress(tiny(arms=arms), [("kd", [0], "bert"), ("kd", [1], "bert")])
    with caplog.at_level("INFO"):
        progress.stepped(0, 5)
        progress.stepped(1, 5)
    assert [record.getMessage() for record in caplog.records] == [
        "kd bert, seeds 0: step 5 of 5; about 1 min left in this part",
        "kd bert, seeds 1: step 5 of 5; about 0 min left in this part",
    ]


def _twice(grid_, workdir, arm, group, *, progress):
    progress(1)
    return arm, os.getpid(), workers.cores()


@pytest.mark.slow  # real processes
def test_jobs_run_in_processes_on_a_core_each(tmp_path, capfd):
    work = tiny(jobs=2)
    found = list(work._each(_twice, [("plain", [0]), ("slow", [0])], tmp_path))
    assert sorted(arm for arm, _, _ in found) == ["plain", "slow"]
    assert os.getpid() not in [process for _, process, _ in found]
    assert [cores for _, _, cores in found] == [1, 1]
    # Nor does a process die that has just started when the other one has done both jobs.
    assert capfd.readouterr().err == ""


def _endless(folder, name, *, progress):
    (folder / name).write_text(str(os.getpid()))
    time.sleep(300)


def _start_endless(folder):
    list(workers.each(_endless, [(folder, "a"), (folder, "b")], processes=2, stepped=print))


@pytest.mark.slow  # real processes
def test_jobs_end_with_the_command_that_started_them(tmp_path):
    script = (
        "import pathlib; from tests.experiments import test_grid; "
        f"test_grid._start_endless(pathlib.Path({str(tmp_path)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as command:
        wait_until(lambda: sum(bool(path.read_text()) for path in tmp_path.iterdir()) == 2)
        pids = [int(path.read_text()) for path in tmp_path.iterdir()]
        command.kill()
    assert len(pids) == 2
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def wait_until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
