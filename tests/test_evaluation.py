"""Held-out losses of streams that are taught: by the run's teachers, or by its moving average."""

import contextlib
import types

import jax
import numpy as np
import pytest

from tests import tiny_config, ufm_runs
from unified_fm import evaluation as of_runs
from unified_fm import setup, sharding, step
from unified_fm.config import file as config_file
from unified_fm.config import python
from unified_fm.evaluation import Evaluation
from unified_fm.runtime import watchdog


class Dog:
    """In place of the watchdog."""

    def progress(self, what=None):
        pass

    def held(self):
        return contextlib.nullcontext()


pytestmark = pytest.mark.usefixtures("compile_quickly")


def held_out(*streams):
    """Settings of an evaluation of these streams' losses on 16 other records."""
    made = {
        name: {"name": "held_out", "like": name, "source": f"synthetic:{name}:16", "seed": 5}
        for name in streams
    }
    return {"every": 0, "at_end": True, "params": "params", "evaluators": made}


def prepared(settings):
    return setup.prepare(settings, devices=jax.devices()[:1])


def distilling():
    """The student's own model as the teacher, so that what it should say is known."""
    entry = {"path": "not/there", "model": ufm_runs.MODELS["ufm"]}
    members = {"vit": entry | {"streams": ["image"]}, "bert": entry | {"streams": ["text"]}}
    evaluate = held_out("image", "text")
    return prepared(ufm_runs.config(teachers=members, evaluate=evaluate))


@pytest.mark.slow
def test_A10_held_out_losses_ask_the_teachers(tmp_path):
    ready = distilling()
    evaluation = Evaluation(ready, tmp_path, Dog())
    evaluation.check()
    batch = {**ready.shapes["image"], **ready.shapes["text"]}
    batch = jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), batch)

    def parameters(seed):
        make = jax.jit(
            lambda b: ready.program.model.init(jax.random.key(seed), b, method="targets")
        )
        return make(batch)["params"]

    one, other = parameters(0), parameters(1)
    same = evaluation.run(one, teacher_params={"vit": one, "bert": one})
    assert same["image/image/distill"] == pytest.approx(0, abs=1e-5)
    assert same["text/text/distill"] == pytest.approx(0, abs=1e-5)
    taught = evaluation.run(one, teacher_params={"vit": one, "bert": other})
    assert taught["text/text/distill"] > 1e-3
    assert taught["text/text/mlm"] == same["text/text/mlm"]
    assert taught["image/image/distill"] == same["image/image/distill"]


def averaged(ema, mim):
    config = python.plain(tiny_config.get_config())
    config["streams"]["image"]["objectives"] = {"mim": mim}
    return prepared(config_file.made(config | {"ema": ema, "evaluate": held_out("image")}))


@pytest.mark.slow
def test_A10_held_out_losses_ask_the_moving_average(tmp_path):
    ready = averaged(0.9, {"target": "ema"})
    evaluation = Evaluation(ready, tmp_path, Dog())
    evaluation.check()
    params = ready.init_params({})
    found = evaluation.run(params, ema=params)
    moved = evaluation.run(params, ema=jax.tree.map(lambda x: 1.5 * x, params))
    assert moved["image/image/mim"] > 1.1 * found["image/image/mim"]

    alone = Evaluation(averaged(0.9, 1.0), tmp_path, Dog()).run(params)
    assert found["image/image/mim"] == pytest.approx(alone["image/image/mim"], rel=1e-5)


def test_A10_a_teacher_that_cannot_be_asked_is_refused_at_the_start():
    vit = {"path": "not/there", "model": ufm_runs.MODELS["ufm"], "streams": ["image"]}
    members = {"vit": vit, "bert": {"cache": "not/there", "streams": ["text"]}}
    with pytest.raises(ValueError, match="whose teacher 'bert' is a cache"):
        ufm_runs.config(teachers=members, evaluate=held_out("text"))
    with pytest.raises(ValueError, match=r"config\.ema must be a decay"):
        averaged(None, {"target": "ema"})


def test_D11_a_call_that_hangs_is_seen_unless_it_may_be_compiling(monkeypatch):
    now, stalled = [0.0], []
    dog = watchdog.Watchdog(None, minutes=15)
    monkeypatch.setattr(watchdog, "time", types.SimpleNamespace(monotonic=lambda: now[0]))

    def hangs(*args, **kw):
        now[0] += 901
        stalled.append(dog.stalled())

    monkeypatch.setattr(step, "make_apply", lambda *args: hangs)
    monkeypatch.setattr(step, "make_outputs", lambda *args: hangs)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    apply = of_runs._Apply(types.SimpleNamespace(model=None), mesh, dog)
    rows = {n: {"text": np.zeros((n, 3), np.int32)} for n in (4, 8)}
    apply("f", {}, rows[4])
    apply("f", {}, rows[4])
    apply("f", {}, rows[8])  # compiled for this shape
    apply("g", {}, rows[8])
    apply("f", {}, rows[8])
    apply("f", {}, rows[8], rngs={"dropout": jax.random.key(0)})
    for seed in range(2):
        apply.outputs("text", {}, rows[4], jax.random.key(seed))
    assert stalled == [False, True, False, False, True, False, False, True]
    assert not dog.stalled()  # whatever a call has taken, it came back
    now[0] += 901
    assert dog.stalled()
    monkeypatch.undo()


def test_D11_the_evaluators_of_a_run_tell_its_watchdog_of_progress(tmp_path):
    dog = watchdog.Watchdog(None)
    made = Evaluation(averaged(None, 1.0), tmp_path, dog)._evaluators
    assert [evaluator.passes.progress for evaluator in made.values()] == [dog.progress]
