import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unified_fm import plugins, rules
from unified_fm.optim import build, schedules

CONSTANT = {"name": "constant"}
PARAMS = {
    "text": {"kernel": np.array([1.0, -2.0], np.float32), "bias": np.array([0.5], np.float32)},
    "itm_head": {"kernel": np.array([3.0], np.float32)},
    "temperature": np.array(0.07, np.float32),
}


def _chain(params=PARAMS, rules=None, project=(), groups=("all",), total_steps=100, **settings):
    return build.build(
        params,
        merge=plugins.build("optim.merge", "sum", groups=list(groups)),
        settings=build.Settings(**settings),
        total_steps=total_steps,
        rules=rules,
        project=project,
    )


def _updated(tx, params, grads, steps=1):
    params = jax.tree.map(jnp.asarray, params)
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(grads, state, params, losses=dict.fromkeys(grads, 0.0))
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # 4 updates of warm-up from 0, then a straight line to 0 at update 12.
        ({"name": "linear", "warmup": 4}, [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0]),
        # a half-cosine from 1 to 0.2: 0.2 + 0.8 * 0.5 * (1 + cos(pi * t))
        (
            {"name": "cosine", "warmup": 4, "end": 0.2},
            [
                0,
                0.25,
                0.5,
                0.75,
                1,
                0.2 + 0.4 * (1 + np.sqrt(0.5)),
                0.6,
                0.2 + 0.4 * 0.29289322,
                0.2,
            ],
        ),
        ({"name": "constant", "warmup": 4}, [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
    ],
)
def test_schedules_in_closed_form(settings, expected):
    schedule = schedules.build(total_steps=12, **settings)
    got = [float(schedule(count)) for count in (0, 1, 2, 3, 4, 6, 8, 10, 12)]
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(schedule(1000), expected[-1], atol=1e-6)


def test_schedules_refuse_nonsense():
    with pytest.raises(ValueError, match="Possible: constant, cosine, linear"):
        schedules.build(name="linaer", total_steps=10)
    with pytest.raises(ValueError, match="does not fit"):
        schedules.build(name="linear", total_steps=10, warmup=11)


def _numpy_adamw(p, gs, *, lr, b1, b2, eps, decay):
    """AdamW as Loshchilov and Hutter write it, one parameter."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gs, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        p = p - lr * (m_hat / (np.sqrt(v_hat) + eps) + decay * p)
    return p


def test_adamw_with_rules_equals_numpy():
    rule = {
        "lr_scale": [("itm_head/.*", 2.0), (".*", 1.0)],
        "weight_decay": [(".*/bias|temperature", 0.0), (".*", 1.0)],
    }
    tx = _chain(rules=rule, lr=0.1, b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.5, schedule=CONSTANT)
    grads = {"all": jax.tree.map(lambda p: p * p + 0.1, PARAMS)}  # the same at every update
    got, _ = _updated(tx, PARAMS, grads, steps=3)

    def expected(p, g, scale, decay):
        return _numpy_adamw(p, [g] * 3, lr=0.1 * scale, b1=0.9, b2=0.98, eps=1e-6, decay=decay)

    g = grads["all"]
    want = {
        "text": {
            "kernel": expected(PARAMS["text"]["kernel"], g["text"]["kernel"], 1, 0.5),
            "bias": expected(PARAMS["text"]["bias"], g["text"]["bias"], 1, 0.0),
        },
        "itm_head": {
            "kernel": expected(PARAMS["itm_head"]["kernel"], g["itm_head"]["kernel"], 2, 0.5)
        },
        "temperature": expected(PARAMS["temperature"], g["temperature"], 1, 0.0),
    }
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)


def test_groups_are_summed_and_clipped_to_the_global_norm():
    link = build.clip(1.0)
    merge = plugins.build("optim.merge", "sum", groups=["a", "b"])
    tx = optax.chain(merge, link)
    params = {"x": jnp.zeros(2), "y": jnp.zeros(1)}
    grads = {
        "a": {"x": jnp.array([1.0, 0.0]), "y": jnp.array([2.0])},
        "b": {"x": jnp.array([2.0, 0.0]), "y": jnp.array([2.0])},
    }
    updates, state = tx.update(grads, tx.init(params), params, losses={"a": 0.0, "b": 0.0})
    np.testing.assert_allclose(updates["x"], [0.6, 0.0], rtol=1e-6)  # (3, 0, 4) has norm 5
    np.testing.assert_allclose(updates["y"], [0.8], rtol=1e-6)
    assert float(optax.tree_utils.tree_get(state, "grad_norm")) == 5.0


def test_a_small_gradient_is_not_enlarged():
    updates, _ = build.clip(1.0).update({"x": jnp.array([0.5])}, None)
    assert updates["x"] == 0.5
    updates, _ = build.clip(1.0).update({"x": jnp.array([0.0])}, None)
    assert updates["x"] == 0.0


def test_frozen_parameters_keep_their_bits_and_leave_the_norm_alone():
    tx = _chain(rules={"frozen": [("text/.*", True), (".*", False)]}, lr=0.1, clip=1.0)
    grads = {"all": jax.tree.map(jnp.ones_like, PARAMS)}
    got, state = _updated(tx, PARAMS, grads, steps=3)
    assert np.array_equal(got["text"]["kernel"], PARAMS["text"]["kernel"])
    assert not np.array_equal(got["itm_head"]["kernel"], PARAMS["itm_head"]["kernel"])
    np.testing.assert_allclose(optax.tree_utils.tree_get(state, "grad_norm"), np.sqrt(2), rtol=1e-6)
    moments = [name for name in rules.names(state) if "/mu/" in name]
    assert not any("text" in name for name in moments)  # no memory for what never moves
    assert any("itm_head" in name for name in moments)


def test_projection_moves_the_parameter_back_into_the_interval():
    tx = _chain(lr=1.0, schedule=CONSTANT, project=[("temperature", (0.001, 0.5))])
    up, _ = _updated(tx, PARAMS, {"all": jax.tree.map(lambda p: -jnp.ones_like(p), PARAMS)})
    np.testing.assert_allclose(up["temperature"], 0.5, rtol=1e-6)
    down, _ = _updated(tx, PARAMS, {"all": jax.tree.map(jnp.ones_like, PARAMS)})
    np.testing.assert_allclose(down["temperature"], 0.001, rtol=1e-4)
    assert float(down["itm_head"]["kernel"][0]) < 2.1  # the others move freely


@pytest.mark.parametrize(
    ("path", "correct", "official"),
    [
        ("text/layer_00/mlp_in/kernel", 1.0, 1.0),
        ("text/layer_00/mlp_in/bias", 0.0, 0.0),
        ("text_embed/word/embedding", 1.0, 1.0),
        ("text_embed/norm/scale", 0.0, 0.0),
        ("mlm_head/bias", 0.0, 0.0),
        ("vision/layer_00/relative_position_bias", 0.0, 0.0),
        ("vision/layer_00/scale_attn", 0.0, 1.0),
        ("vision/class_token", 0.0, 1.0),
        ("vision/norm/scale", 0.0, 0.0),
        ("temperature", 0.0, 1.0),
        ("itm_head/norm/scale", 0.0, 1.0),
        ("box_head/norm/bias", 0.0, 0.0),
    ],
)
def test_named_decay_rules(path, correct, official):
    assert rules.match(path, build.named_rules("weight_decay", "correct")) == correct
    assert rules.match(path, build.named_rules("weight_decay", "official")) == official


def test_named_rate_rules():
    for path, correct, official in [
        ("fusion/layer_00/mlp_in/kernel", 2.0, 1.0),
        ("fusion_mlm_head/bias", 2.0, 1.0),
        ("temperature", 2.0, 2.0),
        ("itm_head/out/kernel", 2.0, 2.0),
        ("mlm_head/bias", 1.0, 1.0),
        ("vision/norm/scale", 1.0, 1.0),
    ]:
        assert rules.match(path, build.named_rules("lr_scale", "correct")) == correct
        assert rules.match(path, build.named_rules("lr_scale", "official")) == official
    with pytest.raises(ValueError, match="Possible: correct, layerwise:DECAY, official, plain"):
        build.named_rules("lr_scale", "offical")
