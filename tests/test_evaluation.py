"""Held-out losses of streams that are taught: by the run's teachers, or by its moving average."""

import contextlib
import copy
import dataclasses

import jax
import pytest

from tests import tiny_config, ufm_runs
from tools import show_params
from unified_fm import assembly, sharding, step
from unified_fm.config import settings
from unified_fm.data import tokenizer as tokenizers
from unified_fm.evaluation import Evaluation
from unified_fm.teachers import transform as teachers


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


def held_out(config):
    """The config with an evaluator of all its losses on other data."""
    streams = copy.deepcopy(config["streams"])
    evaluate = {
        "every": 0,
        "at_end": True,
        "params": "params",
        "evaluators": {"losses": {"streams": streams, "batches": 2, "seed": 5}},
    }
    return config | {"evaluate": evaluate}


def evaluation_of(config, tmp_path, program=None):
    mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
    program = program or assembly.program(config)
    loaded = tokenizers.load("bytes")
    made = Evaluation(config, tmp_path, program, mesh, loaded, Dog())
    with contextlib.closing(assembly.streams(config, loaded)) as streams:
        batches = sharding.global_batches(mesh, next(streams))
    return made, program, batches


def distilling(**teacher):
    """The student's own model as the teacher, so that what it should say is known."""
    entry = {"path": "not/there", "model": ufm_runs.MODELS["ufm"], "streams": ["image"]} | teacher
    text = {"streams": ["text"]}
    return held_out(ufm_runs.config(teachers={"vit": entry, "bert": entry | text}))


def test_A10_held_out_losses_ask_the_teachers(tmp_path):
    config = distilling()
    evaluation, program, batches = evaluation_of(config, tmp_path)
    evaluation.check()
    shapes = jax.eval_shape(
        lambda b: program.model.init(jax.random.key(0), b, method="targets")["params"],
        batches["image"] | batches["text"],
    )
    assert jax.tree.map(lambda x: x.shape, show_params.parameter_shapes(config)) == jax.tree.map(
        lambda x: x.shape, shapes
    )
    one, other = (
        jax.jit(lambda b, seed=seed: program.model.init(jax.random.key(seed), b, method="targets"))(
            batches["image"] | batches["text"]
        )["params"]
        for seed in (0, 1)
    )
    same = evaluation.run(one, {"vit": one, "bert": one, "ema": None})
    assert same["losses/image/distill"] == pytest.approx(0, abs=1e-5)
    assert same["losses/text/distill"] == pytest.approx(0, abs=1e-5)
    taught = evaluation.run(one, {"vit": one, "bert": other, "ema": None})
    assert taught["losses/text/distill"] > 1e-3
    assert taught["losses/text/mlm"] == same["losses/text/mlm"]
    assert taught["losses/image/distill"] == same["losses/image/distill"]


def averaged(ema):
    config = tiny_config.get_config().to_dict()
    config["streams"]["image"]["objectives"] = {"mim": {"target": "ema"}}
    config |= {"ema": ema}
    return held_out(settings.complete(config))


def test_A10_held_out_losses_ask_the_moving_average(tmp_path):
    config = averaged(0.9)
    evaluation, program, batches = evaluation_of(config, tmp_path)
    evaluation.check()
    params = jax.jit(lambda b: step.init_params(program, {}, b))(batches)
    found = evaluation.run(params, {"ema": params})
    moved = evaluation.run(params, {"ema": jax.tree.map(lambda x: 1.5 * x, params)})
    assert moved["losses/image/mim"] > 1.1 * found["losses/image/mim"]

    own = copy.deepcopy(config)
    own["evaluate"]["evaluators"]["losses"]["streams"]["image"]["objectives"] = {"mim": 1.0}
    alone, _, _ = evaluation_of(own, tmp_path)
    [value] = [v for k, v in alone.run(params, {}).items() if k == "losses/image/mim"]
    assert found["losses/image/mim"] == pytest.approx(value, rel=1e-5)


def test_A10_a_teacher_that_cannot_be_asked_is_refused_at_the_start(tmp_path):
    config = distilling()
    program = assembly.program(config)
    cached = dataclasses.replace(program.teachers.members["bert"], model=None)
    members = program.teachers.members | {"bert": cached}
    program = dataclasses.replace(program, teachers=teachers.make_transform(members))
    evaluation, _, _ = evaluation_of(config, tmp_path, program)
    with pytest.raises(ValueError, match="'losses' asks the teacher 'bert', which was read from a"):
        evaluation.check()

    members = {"vi": members["vit"], "bert": program.teachers.members["bert"]}
    program = dataclasses.replace(program, teachers=teachers.make_transform(members))
    evaluation, _, _ = evaluation_of(config, tmp_path, program)
    with pytest.raises(ValueError, match=r"'vit', which is none of this run; did you mean 'vi'\?"):
        evaluation.check()

    config = averaged(0.9)
    program = assembly.program(config)
    evaluation, _, _ = evaluation_of(config | {"ema": None}, tmp_path, program)
    with pytest.raises(ValueError, match="asks the averaged parameters"):
        evaluation.check()
