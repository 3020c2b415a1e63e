"""What a run is made of, put together once: without data, teachers' files or the devices."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny_config, ufm_runs
from unified_fm import rules, setup
from unified_fm.config import chosen, python
from unified_fm.config import file as config_file
from unified_fm.config.settings import Mesh, Settings

ROOT = pathlib.Path(__file__).parents[1]
TEACHERS = {
    "vit": {"path": "runs/nowhere", "model": ufm_runs.MODELS["vit"], "streams": ["image"]},
    "bert": {"path": "runs/nowhere", "model": ufm_runs.MODELS["bert"], "streams": ["text"]},
}


def settings(**changes):
    return Settings.of(python.plain(tiny_config.get_config()) | changes)


pytestmark = pytest.mark.usefixtures("compile_quickly")


def test_the_shapes_are_those_of_the_batches_that_come():
    ready = setup.prepare(settings())
    streams = ready.open_streams()
    batches = ready.place(next(streams))
    streams.close()
    found = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), batches)
    assert found == jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), ready.batches)


def test_a_tokenizer_of_another_model_is_refused_with_both_numbers():
    spec = f"{ROOT}/configs/teacher_bert.py:smoke"
    known = "the tokenizer 'bytes' has 261 ids, the model model.vocab_size = 260"
    with pytest.raises(ValueError, match=known):
        setup.prepare(config_file.load(spec, ["model.vocab_size=260"]))


def test_a_state_does_not_depend_on_the_data():
    """It is drawn where no batch is; the step then runs on the first one."""
    ready = setup.prepare(settings())
    state = ready.fresh_state({})
    with_data = jax.jit(ready.init_params)({})
    for (name, ours), (_, theirs) in zip(
        rules.named_leaves(state.params), rules.named_leaves(with_data), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    streams = ready.open_streams()
    _, metrics = ready.train_step()(state, {}, ready.place(next(streams)))
    streams.close()
    assert sorted(metrics) == ready.metric_names
    assert metrics["ok"] == 1


def test_shapes_need_no_data_and_no_file_of_a_teacher():
    config = ufm_runs.config(teachers=TEACHERS)
    missing = {"text": config.streams["text"].replace(source="jsonl:nowhere.jsonl")}
    config = config.replace(streams={**config.streams, **missing})
    ready = setup.prepare(config)
    assert "image/distill/agreement" in ready.metric_names
    assert set(ready.teacher_shapes) == {"vit", "bert"}
    alone = setup.prepare(chosen.without_teachers(config))
    assert jax.tree.structure(alone.params) == jax.tree.structure(ready.params)
    assert "image/classify" in alone.metric_names and "image/distill" not in alone.metric_names
    with pytest.raises(ValueError, match="nowhere"):
        ready.load_teachers()
    with pytest.raises((ValueError, OSError), match=r"nowhere\.jsonl"):
        ready.open_streams()


def test_nothing_is_asked_of_a_device_before_it_is_needed():
    script = (
        "from unified_fm import setup\n"
        "from unified_fm.config import file\n"
        "ready = setup.prepare(file.load('tests/tiny_config.py'))\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_merge_that_is_first_asked_for_under_a_trace_keeps_no_tracer():
    weights = {"image": 0.5, "text": 1.5}
    ready = setup.prepare(ufm_runs.config(merge={"name": "static", "weights": weights}))
    assert ready.target.opt_state  # its shapes are found under a trace, by the optimizer
    gradients = dict.fromkeys(weights, jnp.ones(2))
    merged, _ = ready.merge.update(gradients, ready.merge.init(jnp.ones(2)))
    assert merged.tolist() == [2.0, 2.0]


def test_a_mesh_of_given_devices():
    config = settings(mesh={"data": 1, "fsdp": 2}, rules={"sharding": "fsdp"})
    ready = setup.prepare(config, devices=jax.devices()[:2])
    assert dict(ready.mesh.shape) == {"data": 1, "fsdp": 2, "tensor": 1}
    kernel = ready.target.params["text"]["mlp_in"]["kernel"]
    assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, "fsdp")
    mu = ready.target.opt_state[2].inner_state.mu["text"]["mlp_in"]["kernel"]
    assert mu.sharding == kernel.sharding
    three = setup.prepare(config.replace(mesh=Mesh(data=3)), devices=jax.devices()[:3])
    with pytest.raises(ValueError, match="has 8 rows, which 3 parts"):
        three.place({})


@pytest.mark.slow
def test_several_seeds_in_one_program():
    """The plain step, mapped: each seed is the run of that seed."""
    ready = setup.prepare(settings())
    streams = ready.open_streams()
    batch = next(streams)
    streams.close()
    seeds = jnp.array([0, 3])

    @jax.jit
    def both(seeds):
        def one(seed):
            state = ready.init_state(ready.init_params({}, seed))
            return ready.plain_step(seed)(state, {}, batch)

        return jax.vmap(one)(seeds)

    state, metrics = both(seeds)
    assert state.step.tolist() == [1, 1]
    for place, seed in enumerate(seeds.tolist()):
        alone = setup.prepare(settings(seed=seed))
        expected, logs = alone.train_step()(alone.fresh_state({}), {}, alone.place(batch))
        np.testing.assert_allclose(metrics["text/mlm"][place], logs["text/mlm"], rtol=1e-5)
        for (name, leaf), (_, theirs) in zip(
            rules.named_leaves(expected.params), rules.named_leaves(state.params), strict=True
        ):
            np.testing.assert_allclose(theirs[place], leaf, atol=1e-5, err_msg=name)
