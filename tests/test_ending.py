"""The ways out of a run: what is saved, what is set aside, and what the exit says."""

import json
import os
import pathlib
import signal

import jax
import numpy as np
import pytest

from tests import loop_runs, tiny
from unified_fm import ending, main, setup
from unified_fm.checkpoint import store as checkpoint
from unified_fm.data import tokenizer
from unified_fm.runtime import nonfinite

CONFIG = f"--config={pathlib.Path(__file__).parent / 'tiny_config.py'}"
SIZE = {"words": {"name": "tests.tiny"}}


def _evaluate(every=0, **evaluators):
    return {"every": every, "at_end": True, "params": "params", "evaluators": evaluators or SIZE}


def test_B1_a_missing_evaluator_source_is_found_before_the_first_step(run, tmp_path):
    found = dict(retrieval=dict(source="jsonl:missing.jsonl"))
    with pytest.raises(ValueError, match=r"evaluator 'retrieval' .*missing\.jsonl"):
        run(evaluate=_evaluate(**found))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_B1_an_evaluation_that_fails_costs_no_step(run, tmp_path, monkeypatch):
    def fails(self, apply, params):
        raise OSError("the disk with the pictures is gone")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="pictures"):
        patch.setattr(tiny.Evaluator, "run", fails)
        run(steps=3, checkpoint__every=100, evaluate=_evaluate())
    assert loop_runs.steps(tmp_path / "run") == [3]
    workdir = run(steps=3, checkpoint__every=100, evaluate=_evaluate())
    assert "words/size" in loop_runs.lines(workdir)[-1]


def test_B1_an_error_in_the_loop_saves_first(run, tmp_path, monkeypatch):
    def fails(given):
        if given == 3:
            raise RuntimeError("a loader died")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="died") as error:
        patch.setattr(setup, "Streams", loop_runs.streams_that(fails))
        run(checkpoint__every=100)
    assert error.value.__notes__ == ["after step 3"]
    assert loop_runs.steps(tmp_path / "run") == [3]
    loop_runs.same_params(run(), run("whole"))


@pytest.mark.slow
def test_B1_an_evaluation_that_was_cut_off_is_made_up_for(run, tmp_path, monkeypatch):
    calls = []
    real = tiny.Evaluator.run

    def cut_off(self, apply, params):
        calls.append("cut off")
        os.kill(os.getpid(), signal.SIGTERM)
        loop_runs.wait_until(lambda: False)
        yield from real(self, apply, params)

    with monkeypatch.context() as patch:
        patch.setattr(tiny.Evaluator, "run", cut_off)
        run(steps=4, evaluate=_evaluate(every=2))
    assert loop_runs.steps(tmp_path / "run") == [2]
    workdir = run(steps=4, evaluate=_evaluate(every=2))
    assert [line["step"] for line in loop_runs.lines(workdir) if "words/size" in line] == [2, 4]


def test_B1_what_an_error_left_half_done_is_not_saved(run):
    state = {"a": jax.numpy.ones(3), "b": jax.numpy.ones(3)}
    assert ending._whole(state)
    assert not ending._whole(state | {"b": jax.numpy.array([1.0, np.nan])})
    state["a"].delete()
    assert not ending._whole(state)


def test_B2_an_update_that_is_not_finite_is_refused(run, tmp_path):
    with pytest.raises(nonfinite.NotFinite, match="every loss and gradient is finite, the update"):
        run(steps=20, optimizer__lr=1e38, nonfinite={"max_in_a_row": 3}, checkpoint__every=1)
    folder = tmp_path / "run" / "checkpoints"
    assert loop_runs.steps(tmp_path / "run") == []
    [aside] = (p for p in (folder / "refused").iterdir() if p.name.isdigit())
    params = checkpoint.load_params(folder / "refused", int(aside.name))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))


@pytest.mark.slow
@pytest.mark.nightly
def test_B2_a_run_that_diverges_again_and_again_keeps_its_good_checkpoints(run, tmp_path):
    good = dict(checkpoint__keep=2, optimizer__schedule={"name": "constant"})
    bad = good | dict(checkpoint__every=1, optimizer__lr=1e38, nonfinite={"max_in_a_row": 4})
    run(steps=4, **good)
    for _ in range(3):
        with pytest.raises(nonfinite.NotFinite):
            run(steps=40, **bad)
        assert loop_runs.steps(tmp_path / "run") == [2, 4]
    workdir = run(steps=6, **good)
    assert loop_runs.steps(workdir) == [4, 6]
    loop_runs.same_params(workdir, run("whole", steps=6, **good))


@pytest.mark.slow
def test_row_11_a_run_with_nan_losses_is_refused_and_can_go_on_without_them(run, tmp_path):
    letter = int(tokenizer.load("bytes").encode("e", 8).ids[1])
    poison = {"name": "tests.tiny", "kind": "poison", "word": letter}
    good = dict(steps=4, checkpoint__keep=2, checkpoint__allow_changes=True)
    bad = good | dict(steps=30, checkpoint__every=1, nonfinite={"max_in_a_row": 2})
    run(**good)
    for _ in range(3):
        with pytest.raises(nonfinite.NotFinite, match="loss 'poison' of stream 'text' is nan"):
            run(**bad, streams__text__objectives={"mlm": 1.0, "poison": poison})
        assert 4 in loop_runs.steps(tmp_path / "run")
        assert len(loop_runs.steps(tmp_path / "run")) == 2
    account = json.loads(next((tmp_path / "run").glob("nonfinite-*.json")).read_text())
    assert account["records"]["text"]
    assert account["rng"]
    assert account["grad_norms"]["grad_norm/all"] == "nan"


@pytest.mark.parametrize("signalled", [False, True])
def test_B3_a_last_save_that_fails_says_what_is_lost(run, tmp_path, monkeypatch, signalled):
    full = loop_runs.no_large_files()

    def fill_the_disk(given):
        if given == 5:
            loop_runs.wait_until((tmp_path / "run" / "checkpoints" / "4").exists)
            full.__enter__()
            if signalled:
                os.kill(os.getpid(), signal.SIGTERM)
                loop_runs.wait_until(lambda: False)

    monkeypatch.setattr(setup, "Streams", loop_runs.streams_that(fill_the_disk))
    lost = 5 if signalled else 6
    try:
        with pytest.raises(ending.NotSaved, match=f"steps 5 to {lost} are lost; step 4 is safe"):
            run(steps=6, checkpoint__every=4)
    finally:
        full.__exit__()
    assert loop_runs.steps(tmp_path / "run") == [4]


@pytest.mark.slow
def test_B3_a_report_that_cannot_be_written_is_no_success(run, tmp_path, monkeypatch):
    def full(self, *args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(ending.NotWritten, match="step 2 is saved"):
        patch.setattr("unified_fm.evaluation.Evaluation.write_report", full)
        run(steps=2, report=True)
    assert loop_runs.steps(tmp_path / "run") == [2]
    assert (run(steps=2, report=True) / "report.html").exists()


def test_B3_a_failed_last_save_is_no_clean_stop(tmp_path, monkeypatch):
    def fails(config, folder, stop, **_):
        stop.signum = signal.SIGTERM
        raise ending.NotSaved("NOT SAVED: steps 5 to 6 are lost")

    monkeypatch.setattr("unified_fm.train.train", fails)
    assert main.main(["main", CONFIG, f"--workdir={tmp_path}"]) == 1


@pytest.mark.slow
def test_row_05_a_disk_that_is_full_for_a_while(run, tmp_path, monkeypatch, caplog):
    full = loop_runs.no_large_files()

    def act(given):
        if given == 3:
            loop_runs.wait_until((tmp_path / "run" / "checkpoints" / "2").exists)
            full.__enter__()
        if given == 7:
            full.__exit__()

    patient = dict(steps=9, checkpoint__every=2, checkpoint__max_failures=50)
    with monkeypatch.context() as patch:
        patch.setattr(setup, "Streams", loop_runs.streams_that(act))
        workdir = run(**patient, log__tensorboard=True)
    assert "CHECKPOINT NOT SAVED: saving step" in caplog.text
    assert caplog.text.count("metrics.jsonl could not be written") == 1
    assert loop_runs.steps(workdir)[0] == 2
    assert loop_runs.steps(workdir)[-1] == 9
    whole = run("whole", steps=9, checkpoint__every=2)
    loop_runs.same_params(workdir, whole)


def test_B7_an_error_is_written_down_with_its_traceback(tmp_path, monkeypatch, caplog):
    def fails(config, folder, stop, **_):
        error = KeyError("no such view")
        error.add_note("after step 7")
        raise error

    monkeypatch.setattr("unified_fm.train.train", fails)
    assert main.main(["main", CONFIG, f"--workdir={tmp_path}"]) == 1
    text = (tmp_path / "error.txt").read_text()
    assert "in fails\n" in text
    assert "KeyError: 'no such view'\nafter step 7" in text
    assert f"jax {jax.__version__}" in text


def test_B7_a_refusal_writes_nothing(tmp_path):
    command = ["main", CONFIG, f"--workdir={tmp_path}", "--config.total_steps=0"]
    assert main.main(command) == 2
    assert not list(tmp_path.iterdir())
