import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from unified_fm import joint, micro_batches, plugins, step, train
from unified_fm.config.settings import Teacher
from unified_fm.objectives import mim, mlm
from unified_fm.optim import build
from unified_fm.optim.spikes import Spikes

pytestmark = pytest.mark.usefixtures("compile_quickly")


def _batches(rows=8, seed=0):
    rng = np.random.default_rng(seed)
    words = rng.integers(8, 100, (rows, 6)).astype(np.int32)
    positions = np.tile(np.array([0, 2, 5], np.int32), (rows, 1))
    ids = np.take_along_axis(words, positions, 1)
    ids[:, 2] = np.where(rng.random(rows) < 0.5, -100, ids[:, 2])  # rows count different numbers
    masked = words.copy()
    masked[:, [0, 2, 5]] = 4
    patch_mask = np.zeros((rows, 4), bool)
    patch_mask[:, 1] = True
    return {
        "text": {
            "text": words,
            "text_mask": np.ones_like(words, bool),
            "text_masked": masked,
            "masked_positions": positions,
            "masked_ids": ids,
        },
        "image": {
            "image": rng.integers(0, 255, (rows, 16, 16, 3)).astype(np.uint8),
            "patch_mask": patch_mask,
        },
    }


def _stream(groups=None, **objectives):
    """Objectives by name, each with weight 1 or as (objective, weight)."""
    pairs = {k: v if isinstance(v, tuple) else (v, 1.0) for k, v in objectives.items()}
    return joint.Stream(
        objectives={k: objective for k, (objective, _) in pairs.items()},
        weights={k: weight for k, (_, weight) in pairs.items()},
        groups=groups,
    )


def _program(streams=None, groups=None, dropout=0.0, **kw):
    streams = streams or {
        "text": _stream(mlm=mlm.Objective()),
        "image": _stream(mim=mim.Objective()),
    }
    return step.Program(
        model=tiny.Model(dropout=dropout),
        streams=streams,
        groups=groups or {"all": list(streams)},
        **kw,
    )


def _start(program, ema=False, batches=None, **settings):
    params = jax.jit(lambda b: step.init_params(program, {}, b))(batches or _batches())
    tx = build.build(
        params,
        merge=plugins.build("optim.merge", "sum", groups=list(program.groups)),
        settings=build.Settings(**{"lr": 0.1, "weight_decay": 0.0, **settings}),
        total_steps=10,
    )
    return step.init_state(params, tx, ema=ema), tx


def _run(program, steps=1, batches=None, ema_decay=None, **settings):
    batches = batches or [_batches(seed=i) for i in range(steps)]
    state, tx = _start(program, ema=ema_decay is not None, batches=batches[0], **settings)
    train_step = step.make_train_step(program, tx, ema_decay=ema_decay)
    logs = []
    for batch in batches:
        state, metrics = train_step(state, {}, batch)
        logs.append({k: float(v) for k, v in metrics.items()})
    return state, logs


def _close(a, b, rtol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), a, b)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_padding_is_the_share_of_places_without_a_token(accumulate):
    batches = _batches()
    batches["text"]["text_mask"][0, 2:] = False  # 4 of 6
    batches["text"]["text_mask"][1, 5:] = False  # 1 of 6
    _, [log] = _run(_program(accumulate=accumulate), batches=[batches])
    assert log["text/padding"] == pytest.approx(5 / batches["text"]["text"].size)


def test_metrics_are_named_by_stream_and_objective():
    state, [log] = _run(_program())
    assert set(log) == {
        "text/mlm",
        "text/mlm/accuracy",
        "text/padding",
        "image/mim",
        "image/mim/patches",
        "image/mim/pooled",
        "loss/all",
        "grad_norm/all",
        "grad_norm",
        "update_norm",
        "param_norm",
        "ok",
    }
    assert log["ok"] == 1.0
    np.testing.assert_allclose(log["loss/all"], log["text/mlm"] + log["image/mim"], rtol=1e-6)
    assert int(state.step) == 1


def test_only_the_parameters_that_objectives_use_are_made():
    program = _program({"image": _stream(mim=mim.Objective())})
    params = jax.eval_shape(lambda b: step.init_params(program, {}, b), _batches())
    assert set(params) == {"patch_embed", "vision", "temperature"}


def test_one_step_is_the_gradient_of_the_weighted_sum():
    half = {"text": _stream(mean=(tiny.Objective(), 0.5)), "image": _stream(mim=mim.Objective())}
    program = _program(half)
    state, tx = _start(program)
    batches = _batches()

    def loss(params):  # written out without the step
        net = program.model.bind({"params": params})
        text, image = net(batches["text"]).text, net(batches["image"])
        mask = batches["image"]["patch_mask"]
        error = (image.image_masked - jax.lax.stop_gradient(image.image)) ** 2
        patches = (error[:, 1:].mean(-1) * mask).sum() / mask.sum()
        return 0.5 * (text**2).mean() + patches + error[:, 0].mean()

    grads = jax.grad(loss)(state.params)
    updates, _ = tx.update({"all": grads}, state.opt_state, state.params, losses={"all": 0.0})
    expected = optax.apply_updates(state.params, updates)
    new, metrics = step.make_train_step(program, tx)(jax.tree.map(jnp.copy, state), {}, batches)
    _close(new.params, expected)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-5)


def test_a_step_is_traced_once_for_all_batches():
    """A second trace would compile again, minutes of it in a large model."""
    program = _program()
    state, tx = _start(program)
    chex.clear_trace_counter()
    counted = chex.assert_max_traces(lambda *args: tx.update(*args[:3], losses=args[3]), n=1)
    spied = tx._replace(update=lambda g, s, p, *, losses: counted(g, s, p, losses))
    train_step = step.make_train_step(program, spied)
    for seed in range(3):
        state, _ = train_step(state, {}, _batches(seed=seed))
    assert int(state.step) == 3


def test_groups_give_the_merge_one_gradient_tree_each():
    seen = {}

    def spy(groups):
        def update(grads, state, params=None, *, losses):
            seen["losses"] = set(losses)
            for group in groups:
                seen[group] = jax.tree.map(jnp.shape, grads[group])
            return jax.tree.map(jnp.add, grads["a"], grads["b"]), state

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)

    program = _program(groups={"a": ["text"], "b": ["image"]})
    state, _ = _start(program)
    tx = build.build(state.params, merge=spy("ab"), settings=build.Settings(lr=0.1), total_steps=3)
    state = step.init_state(state.params, tx, ema=False)
    shapes = jax.tree.map(jnp.shape, state.params)
    _, metrics = step.make_train_step(program, tx)(state, {}, _batches())
    assert seen == {"losses": {"a", "b"}, "a": shapes, "b": shapes}
    assert float(metrics["grad_norm/a"]) > 0
    assert float(metrics["loss/b"]) == float(metrics["image/mim"])


def test_two_groups_summed_train_as_one():
    one, _ = _run(_program(dropout=0.5), steps=2)
    two, _ = _run(_program(dropout=0.5, groups={"a": ["text"], "b": ["image"]}), steps=2)
    _close(one.params, two.params)


def test_micro_batches_are_exact():
    whole, [log] = _run(_program(), lr=0.01)
    cut, [cut_log] = _run(_program(accumulate=4), lr=0.01)
    assert set(cut_log) == set(log)
    for name, value in log.items():
        np.testing.assert_allclose(cut_log[name], value, rtol=1e-5, err_msg=name)
    _close(cut.params, whole.params, rtol=1e-4)


@pytest.mark.slow
def test_micro_batches_with_padded_rows_are_exact():
    batches = _batches()
    batches["text"]["weight"] = np.array([1, 0, 1, 1, 0, 0, 1, 1], np.float32)
    program = _program({"text": _stream(mlm=mlm.Objective(), mean=tiny.Objective())})
    _, [whole] = _run(program, batches=[batches])
    cut = _program(program.streams, accumulate=4)
    _, [parts] = _run(cut, batches=[batches])
    for name in ("text/mlm", "text/mean", "grad_norm"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5)
    plain_mean = np.mean(
        [  # what the mean of the micro-batches' means would have been
            _run(program, batches=[jax.tree.map(lambda x, i=i: x[i::4], batches)])[1][0][
                "text/mean"
            ]
            for i in range(4)
        ]
    )
    assert abs(plain_mean - whole["text/mean"]) > 1e-4 * whole["text/mean"]


def test_losses_that_compare_rows_are_named():
    program = _program({"text": _stream(a=tiny.Objective(kind="spread"), b=tiny.Objective())})
    assert program.inexact == ["text/a"]


def test_A5_the_log_names_every_loss_that_micro_batches_change(caplog):
    names = ("itc", "itm", "imlm", "mlm", "mim", "pixels", "classify", "bbox")
    made = {name: plugins.build("objectives", name) for name in names}
    program = _program({"pairs": _stream(**made)}, accumulate=2)
    assert program.inexact == ["pairs/itc", "pairs/itm"]
    with caplog.at_level("INFO", logger="unified_fm.train"):
        train._say_inexact(program)
    [line] = caplog.messages
    assert line.startswith("accumulate=2: pairs/itc, pairs/itm compare rows of one micro-batch")


def test_groups_stay_together_in_micro_batches():
    batch = {
        "image": np.arange(4) * 10,  # 2 groups of 2 images
        "image_index": np.array([0, 1, 1, 0, 1, 1]),  # 3 rows each
        "row": np.arange(6),
    }
    pieces = micro_batches.split({"regions": batch}, 2, {"regions": 2})["regions"]
    assert pieces["image"].tolist() == [[0, 10], [20, 30]]
    assert pieces["row"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert pieces["image_index"].tolist() == [[0, 1, 1], [0, 1, 1]]


def test_groups_interleave_over_micro_batches():
    batch = {"image": np.arange(4), "image_index": np.zeros(4, int)}  # 4 groups of 1 image and row
    pieces = micro_batches.split({"regions": batch}, 2, {"regions": 4})["regions"]
    assert pieces["image"].tolist() == [[0, 2], [1, 3]]
    assert not pieces["image_index"].any()  # every row still finds its image: places in a group


def test_batches_that_cannot_be_cut_are_refused():
    with pytest.raises(ValueError, match="5 rows in 5 groups cannot be cut into 2"):
        micro_batches.split({"text": {"text": np.zeros(5)}}, 2, {})
    with pytest.raises(ValueError, match="accumulate=2 must divide its groups, which are 1"):
        micro_batches.split({"r": {"image": np.zeros(4), "image_index": np.zeros(4)}}, 2, {})
    with pytest.raises(ValueError, match="negatives_text indexes the whole batch"):
        micro_batches.split({"r": {"text": np.zeros(4), "negatives_text": np.zeros(4)}}, 2, {})


def test_fault_11_a_step_with_nan_changes_nothing_but_the_count():
    program = _program({"text": _stream(poison=tiny.Objective(kind="poison"))})
    good, bad = _batches(seed=0), _batches(seed=1)
    bad["text"]["text"][3, 3] = 7
    state, tx = _start(program, ema=True)
    train_step = step.make_train_step(program, tx, ema_decay=0.5)
    state, _ = train_step(state, {}, good)
    before = jax.tree.map(np.array, state)
    state, metrics = train_step(state, {}, bad)
    assert float(metrics["ok"]) == 0.0
    assert np.isnan(metrics["text/poison"])
    assert int(state.step) == 2
    after = jax.tree.map(np.array, state)
    jax.tree.map(np.testing.assert_array_equal, after.replace(step=0), before.replace(step=0))
    state, metrics = train_step(state, {}, good)
    assert float(metrics["ok"]) == 1.0


def test_D10_a_refused_step_logs_the_spikes_before_it():
    spikes = Spikes(window=2)
    seen = spikes.init().replace(
        window=jnp.full(2, -9.0), seen=jnp.int32(2)
    )  # all that comes is one
    state, tx = _start(_program(), ema=True)
    state = state.replace(ema=jax.tree.map(lambda x: x + jnp.inf, state.ema), spikes=seen)
    train_step = step.make_train_step(_program(), tx, ema_decay=0.5, spikes=spikes)
    state, metrics = train_step(state, {}, _batches())
    assert metrics["spike_sigma"] > spikes.sigma
    assert (metrics["ok"], metrics["spikes"], state.spikes.found) == (0, 0, 0)


def test_the_moving_average():
    state, tx = _start(_program(), ema=True)
    start = jax.tree.map(np.array, state.params)
    state, _ = step.make_train_step(_program(), tx, ema_decay=0.75)(state, {}, _batches())
    expected = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, start, state.params)
    _close(state.ema, expected)


def test_an_objective_may_read_the_average_as_its_teacher():
    program = _program({"image": _stream(mim=mim.Objective(target="ema"))})
    assert program.needs_ema
    state, tx = _start(program, ema=True)
    state = state.replace(ema=jax.tree.map(lambda x: x + 0.1, state.params))
    net = program.model.bind({"params": state.params})
    target = program.model.bind({"params": state.ema})(_batches()["image"]).image
    masked = net(_batches()["image"]).image_masked
    error = np.square(np.asarray(masked - target)).mean(-1)
    _, metrics = step.make_train_step(program, tx, ema_decay=0.9)(state, {}, _batches())
    expected = error[:, 2].mean() + error[:, 0].mean()  # patch 1 is the masked one
    np.testing.assert_allclose(metrics["image/mim"], expected, rtol=1e-5)


def test_randomness_follows_seed_step_and_stream_alone():
    batches = [_batches(), _batches()]
    _, first = _run(_program(dropout=0.5), batches=batches, lr=0.0)
    _, again = _run(_program(dropout=0.5), batches=batches, lr=0.0)
    assert first == again
    assert first[0]["text/mlm"] != first[1]["text/mlm"]  # the step counts
    only_text = {"text": _stream(mlm=mlm.Objective())}
    program = _program(only_text, dropout=0.5)
    state, tx = _start(_program(dropout=0.5), lr=0.0)
    params = {k: state.params[k] for k in ("word", "text", "temperature")}
    tx = build.build(
        params,
        merge=plugins.build("optim.merge", "sum", groups=["all"]),
        settings=build.Settings(lr=0.0),
        total_steps=3,
    )
    alone = step.init_state(params, tx, ema=False)
    _, metrics = step.make_train_step(program, tx)(alone, {}, batches[0])
    np.testing.assert_allclose(metrics["text/mlm"], first[0]["text/mlm"], rtol=1e-6)


def test_evaluation_is_compiled_once_and_has_no_dropout():
    calls = []

    def fn(net, batch):
        calls.append(1)
        return net(batch).text

    program = _program(dropout=0.5)
    state, _ = _start(program)
    apply = step.make_apply(program.model)
    outputs = [apply(fn, state.params, _batches()["text"]) for _ in range(2)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert len(calls) == 1
    noisy = apply(fn, state.params, _batches()["text"], rngs={"dropout": jax.random.key(0)})
    assert not np.array_equal(noisy, outputs[0])


def test_a_teacher_gives_targets_and_stays_as_it_is():
    from unified_fm.teachers import transform as teachers

    config = {"old": Teacher(model={"name": "tests.tiny"}, path="", streams=["text"])}
    built = teachers.build(config)
    streams = {"text": _stream(copy=tiny.Objective(kind="copy"))}
    program = _program(streams, teachers=teachers.make_transform(built))
    teacher = {"old": jax.jit(lambda b: step.init_params(_program(), {}, b))(_batches())}
    kept = jax.tree.map(np.array, teacher)
    params = jax.tree.map(lambda x: x + 0.01, teacher["old"])
    tx = build.build(
        params,
        merge=plugins.build("optim.merge", "sum", groups=["all"]),
        settings=build.Settings(lr=0.1),
        total_steps=3,
    )
    state = step.init_state(params, tx, ema=False)
    net, old = (program.model.bind({"params": p}) for p in (params, teacher["old"]))
    batch = _batches()["text"]
    expected = float(((net(batch).text - old(batch).text) ** 2).mean())
    _, metrics = step.make_train_step(program, tx)(state, teacher, _batches())
    np.testing.assert_allclose(metrics["text/copy"], expected, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, teacher), kept)

    def loss(teacher):
        batches = program.teachers(teacher, _batches())
        return (batches["text"]["teacher"]["old"]["hidden"] ** 2).sum()

    zero = jax.grad(loss)(teacher)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(zero))


def test_a_teacher_needs_its_keys():
    from unified_fm.teachers import transform as teachers

    with pytest.raises(ValueError, match=r"teachers.bert has no 'path'; found model, streams"):
        teachers.build({"bert": Teacher(model={"name": "tests.tiny"}, streams=[])})
