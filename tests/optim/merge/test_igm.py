"""IGM against a plain NumPy account of its definition, option by option."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.optim.merge import examples
from unified_fm import plugins
from unified_fm.optim.merge import igm
from unified_fm.optim.merge import sum as plain_sum

GROUPS = ("image", "text")
KERNELS = [(0, 12), (16, 32)]  # the shared kernels among the 40 entries
STEPS = {"t0": 2, "t1": 8, "dt": 2}


def merge_of(**options):
    return igm.merge(**({"groups": GROUPS, "shared": examples.RULE} | STEPS | options))


def account(images, texts, params, options):
    """Follows the definition on plain vectors; yields (merged, mask) of each step."""
    o = {
        "combine": "exclusive",
        "score": "abs_text",
        "accumulate": "window_sum",
        "scope": "per_tensor",
        "nested": True,
        "rescale": False,
        "final_ratio": 0.5,
    } | options
    mask, score = np.ones(examples.SIZE), np.zeros(examples.SIZE, np.float32)
    masked = np.zeros(examples.SIZE, bool)
    for a, b in KERNELS:
        masked[a:b] = True
    blocks = [np.arange(a, b) for a, b in KERNELS]
    if o["scope"] == "global":
        blocks = [np.concatenate(blocks)]
    for step, (g_v, g_t) in enumerate(zip(images, texts, strict=True)):
        if step in range(2, 9, 2):
            rho = o["final_ratio"] * (1 - (1 - (step - 2) / 6) ** 3)
            for block in blocks:
                k = math.floor(rho * len(block))
                gone = [i for i in block if mask[i] == 0] if o["nested"] else []
                rest = sorted((i for i in block if i not in gone), key=lambda i: score[i])
                mask[block] = 1
                mask[(gone + rest)[:k]] = 0
            if o["accumulate"] == "window_sum":
                score = np.zeros_like(score)
        merged = g_v + g_t
        if step >= 2:
            merged[masked] = combined(mask, g_v, g_t, o)[masked]
        yield merged, mask[masked].copy()
        new = np.float32(scored(o["score"], g_v, g_t, params))
        decay = np.float32(0.99)
        if o["accumulate"] == "ema":
            new = decay * score + (1 - decay) * new
        score = score + new if o["accumulate"] == "window_sum" else new


def scored(name, g_v, g_t, p):
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "abs_text": np.abs(g_t),
            "abs_image": -np.abs(g_v),
            "sq_text": g_t**2,
            "saliency": np.abs(p * g_t),
            "weight_magnitude": np.abs(p),
            "ratio": np.abs(g_t) / (np.abs(g_t) + np.abs(g_v)),
        }[name]


def combined(mask, g_v, g_t, o):
    text, image = mask * g_t, (1 - mask) * g_v
    if o["rescale"]:
        for a, b in KERNELS:
            kept = mask[a:b].mean()
            text[a:b] /= kept
            image[a:b] /= max(1 - kept, 1e-30)
    return {
        "exclusive": text + image,
        "image_plus_masked_text": g_v + text,
        "text_plus_masked_image": g_t + image,
        "sum": g_v + g_t,
    }[o["combine"]]


def streams(count=11):
    """Gradients of some steps, whose score windows differ, and parameters."""
    rows = np.stack([examples.gradients(2, seed=seed) for seed in range(count)])
    return rows[:, 0], rows[:, 1], examples.gradients(1, seed=99)[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"combine": "image_plus_masked_text"},
        {"combine": "text_plus_masked_image", "scope": "global"},
        {"combine": "sum"},
        {"score": "abs_image"},
        {"score": "sq_text", "accumulate": "ema"},
        {"score": "saliency", "accumulate": "last_step"},
        {"score": "weight_magnitude"},
        {"score": "ratio", "nested": False},
        {"nested": False, "scope": "global", "final_ratio": 0.75},
        {"rescale": True},
    ],
    ids=str,
)
def test_every_option_does_what_its_definition_says(options):
    images, texts, params = streams()
    merge = merge_of(**options)
    tree = examples.tree(params)
    state, update = merge.init(tree), jax.jit(merge.update)
    expected = account(images, texts, params, options)
    for step, (merged, mask) in enumerate(expected):
        state = merge.refresh(state, step)
        rows = np.stack([images[step], texts[step]])
        found, state = update(examples.grads_of(rows), state, tree)
        found_mask = [np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(state.mask)]
        np.testing.assert_array_equal(np.concatenate(found_mask), mask, err_msg=str(step))
        np.testing.assert_allclose(examples.flat(found), merged, rtol=1e-5, atol=1e-6)
    assert 0 < mask.mean() < 1


def test_combine_sum_is_one_gradient_of_the_summed_loss():
    params = examples.tree(examples.gradients(1)[0])
    inputs = jnp.linspace(-1, 1, 3)

    def features(params):
        layer = params["encoder"]["layer_00"]
        hidden = jnp.tanh(inputs @ layer["kernel"] + layer["bias"])
        return jnp.tanh(hidden @ params["encoder"]["layer_01"]["kernel"])

    def image(params):
        return jnp.sum(features(params) ** 2)

    def text(params):
        return jnp.sum(jnp.sin(features(params))[:2] @ params["head"]["kernel"])

    grads = {"image": jax.grad(image)(params), "text": jax.grad(text)(params)}
    expected = jax.grad(lambda p: image(p) + text(p))(params)
    by_sum = plain_sum.merge(groups=GROUPS)
    for merge in (merge_of(combine="sum"), by_sum):
        merged, _ = merge.update(grads, merge.init(params), params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), merged, expected)


def test_full_and_empty_masks():
    rows = examples.gradients(2)
    params, grads = examples.tree(rows[0]), examples.grads_of(rows)
    merge = merge_of(combine="image_plus_masked_text", t0=0, t1=2)
    all_text, _ = merge.update(grads, merge.init(params))
    np.testing.assert_array_equal(examples.flat(all_text), np.float32(rows.sum(0)))

    merge = merge_of(t0=0, t1=2)
    state = merge.init(params)
    nobody = state._replace(mask=jax.tree.map(jnp.zeros_like, state.mask))
    all_image = examples.flat(merge.update(grads, nobody)[0])
    expected = np.float32(rows.sum(0))  # biases, scales and what is not shared: always the sum
    for a, b in KERNELS:
        expected[a:b] = rows[0, a:b]
    np.testing.assert_array_equal(all_image, expected)


def test_swapping_the_owner_swaps_the_roles():
    images, texts, _ = streams()
    by_owner, by_data = merge_of(owner="image"), merge_of(owner="text")
    states = [merge.init(examples.tree(images[0])) for merge in (by_owner, by_data)]
    for step in range(9):
        one = examples.grads_of(np.stack([images[step], texts[step]]))
        other = {"image": one["text"], "text": one["image"]}
        states = [m.refresh(s, step) for m, s in zip((by_owner, by_data), states, strict=True)]
        merged = [by_owner.update(one, states[0]), by_data.update(other, states[1])]
        jax.tree.map(np.testing.assert_array_equal, *(m for m, _ in merged))
        states = [s for _, s in merged]
    jax.tree.map(np.testing.assert_array_equal, states[0].mask, states[1].mask)


def test_random_scores_are_a_control_with_the_same_counts():
    """They ignore the gradients, differ by key, and keep no score in memory."""
    images, texts, _ = streams()
    merge = merge_of(score="random")
    update = jax.jit(merge.update)
    state = merge.init(examples.tree(images[0]))
    assert not jax.tree.leaves(state.score)

    def mask_of(state, text):
        for step in range(9):
            state = merge.refresh(state, step)
            grads = examples.grads_of(np.stack([images[step], text[step]]))
            _, state = update(grads, state)
        return np.concatenate([np.asarray(x).reshape(-1) for x in jax.tree.leaves(state.mask)])

    first = mask_of(state, texts)
    assert (first[:12].sum(), first[12:].sum()) == (6, 8)
    np.testing.assert_array_equal(first, mask_of(state, -2 * texts))
    assert (first != mask_of(state._replace(key=state.key + 1), texts)).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"owner": "pairs"}, r"owner='pairs' is none of the groups \['image', 'text'\]"),
        ({"total_steps": 7}, r"ends at step 8, after the run: total_steps=7"),
        ({"score": "abs_txt"}, r"score is .abs_txt.; did you mean 'abs_text'"),
        ({"combine": "product"}, r"Possible: exclusive, other_plus_masked_owner"),
        ({"accumulate": "mean"}, r"Possible: window_sum, ema, last_step"),
        ({"scope": "layer"}, r"Possible: per_tensor, global"),
        ({"ema_decay": 1.0}, r"found 1.0"),
    ],
)
def test_impossible_options_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        merge_of(**options)


def test_what_is_masked():
    tree = {
        "encoder": {
            "query": {"kernel": jnp.ones((2, 2, 2)), "bias": jnp.ones((2, 2))},  # two heads
            "relative_position_bias": jnp.ones((3, 2)),
            "norm": {"scale": jnp.ones(2)},
        }
    }

    def masked(**options):
        mask = merge_of(**options).init(tree).mask["encoder"]
        present = {"kernel": mask["query"]["kernel"], "bias": mask["query"]["bias"]}
        present |= {"table": mask["relative_position_bias"], "scale": mask["norm"]["scale"]}
        return {name for name, leaf in present.items() if not isinstance(leaf, optax.MaskedNode)}

    assert masked() == {"kernel"}
    assert masked(maskable="all") == {"kernel", "bias", "table", "scale"}
    assert masked(maskable=".*/query/.*") == {"kernel", "bias"}
    with pytest.raises(ValueError, match=r"maskable='.*/key/.*' matches none.*shared='encoder/"):
        masked(maskable=".*/key/.*")


def test_scores_by_parameters_ask_for_them():
    merge = merge_of(score="saliency")
    rows = examples.gradients(2)
    with pytest.raises(ValueError, match=r"score='saliency' needs update\(grads, state, params\)"):
        merge.update(examples.grads_of(rows), merge.init(examples.tree(rows[0])))


def test_the_plugin_lookup_names_the_nearest_option():
    with pytest.raises(TypeError, match=r"no option 'final_ration'; did you mean 'final_ratio'"):
        plugins.build("optim.merge", "igm", groups=GROUPS, shared=".*", final_ration=0.5)
