"""Evaluating without training: any step of a run, when its training data are gone."""

import contextlib
import json
import os
import signal
import time

import pytest

from tests import tiny_config
from unified_fm import setup, step, train
from unified_fm.checkpoint.store import Checkpoints
from unified_fm.config import python
from unified_fm.config.settings import Settings
from unified_fm.evaluators import base
from unified_fm.runtime.interruption import Interruption

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_quickly")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of six steps, evaluated every second one; its training text is gone."""
    folder = tmp_path_factory.mktemp("finished")
    text = folder / "mine.jsonl"
    text.write_text("\n".join(json.dumps({"text": f"a line of words {n}"}) for n in range(20)))
    (folder / "run").mkdir()
    with Interruption() as stop:
        train.train(settings(folder), folder / "run", stop)
    text.unlink()
    return folder


def settings(folder, **evaluate):
    config = python.plain(tiny_config.get_config("6"))
    config["streams"]["text"]["source"] = f"jsonl:{folder / 'mine.jsonl'}"
    words = {"name": "held_out", "like": "text", "source": "synthetic:text:20"}
    config["evaluate"] |= {"every": 2, "evaluators": {"held": words}, **evaluate}
    config["checkpoint"] |= {"best": "held/text/mlm", "best_mode": "min"}
    config["optimizer"]["lr"] = 0.05
    return Settings.of(config)


def measured(folder):
    lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["held/text/mlm"]) for line in lines if "held/text/mlm" in line]


@pytest.mark.parametrize("wanted", [None, "best", 2])
def test_a_step_is_evaluated_without_training_data_or_a_train_step(finished, monkeypatch, wanted):
    def refused(*args, **kwargs):
        raise AssertionError("nothing here is trained")

    monkeypatch.setattr(step, "make_train_step", refused)
    monkeypatch.setattr(setup.Prepared, "open_streams", refused)
    before = dict(measured(finished)[:3])
    assert sorted(before) == [2, 4, 6] and len({*before.values()}) == 3
    at = {None: 6, "best": min(before, key=lambda step: before[step]), 2: 2}[wanted]
    with Interruption() as stop:
        train.evaluate(settings(finished, step=wanted), finished / "run", stop)
    assert measured(finished)[-1] == (at, pytest.approx(before[at], rel=1e-6))


@pytest.mark.parametrize("end", [ValueError, signal.SIGTERM])
def test_an_evaluation_that_fails_or_is_stopped_closes_its_checkpoints(finished, monkeypatch, end):
    def run(*args):
        if end is ValueError:
            raise end("not this one")
        os.kill(os.getpid(), end)
        time.sleep(60)

    closed, close = [], Checkpoints.close
    monkeypatch.setattr(Checkpoints, "close", lambda self: (closed.append(1), close(self)))
    monkeypatch.setattr(base, "run_all", run)
    with Interruption() as stop:
        with contextlib.suppress(ValueError):
            train.evaluate(settings(finished), finished / "run", stop)
        assert (stop.exit_code, closed) == (143 if end == signal.SIGTERM else 0, [1])


def test_the_report_of_an_evaluation_says_what_was_left_out(finished):
    lines = [{"text": f"a line of words {n}"} for n in range(20)] + [{"text": ""}]
    held = finished / "held.jsonl"
    held.write_text("\n".join(map(json.dumps, lines)))
    words = {"name": "held_out", "like": "text", "source": f"jsonl:{held}"}
    with Interruption() as stop:
        train.evaluate(settings(finished, evaluators={"held": words}), finished / "run", stop)
    page = (finished / "run" / "report.html").read_text()
    assert "held.jsonl" in page
    assert "20 used, 1 skipped (1 empty text)" in page


def test_a_step_that_is_not_there_is_refused(finished):
    with Interruption() as stop, pytest.raises(ValueError, match=r"of step 3 .*\[2, 4, 6\]"):
        train.evaluate(settings(finished, step=3), finished / "run", stop)
