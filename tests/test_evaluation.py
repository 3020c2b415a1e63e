"""Held-out losses of streams that are taught: by the run's teachers, or by its moving average."""

import contextlib

import jax
import pytest

from tests import tiny_config, ufm_runs
from unified_fm import setup
from unified_fm.config import file as config_file
from unified_fm.config import python
from unified_fm.evaluation import Evaluation


class Dog:
    """In place of the watchdog."""

    def progress(self, what):
        pass

    def held(self):
        return contextlib.nullcontext()


@pytest.fixture(autouse=True, scope="module")
def _compile_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


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
