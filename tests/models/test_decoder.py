"""The text decoder: causal, equal token by token and at once, and fit to start from other parts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import tiny_xfm
from unified_fm import rules
from unified_fm.checkpoint import start
from unified_fm.models.beam import Writing
from unified_fm.models.decoder import write
from unified_fm.models.memory import ImageMemory

NAME = "caption_decoder"


def decoder_of(net):
    return net.attach(NAME, net.text_decoder())


def at_once(net, batch):
    """Logits f32[B L V] of whole texts."""
    decoder = decoder_of(net)
    mask = batch.get("slot_mask")
    states = decoder(batch["ids"], ImageMemory(image=batch["seen"], slot_mask=mask))
    return decoder.logits(states)


def one_by_one(net, batch, chunk=1):
    """The same, `chunk` tokens at a time, as the only one of two texts a row that is looked at."""
    decoder, ids = decoder_of(net), batch["ids"]
    memory = ImageMemory(image=batch["seen"], slot_mask=batch.get("slot_mask"))
    memory = decoder.remember(memory)
    cache = decoder.empty(len(ids), 2, ids.shape[1])
    found = []
    for place in range(0, ids.shape[1], chunk):
        own = ids[:, place : place + chunk]
        other = jnp.full_like(own, 9)
        x, cache = decoder.extend(jnp.stack([other, own], 1), cache, place, memory)
        found.append(decoder.logits(x[:, 1]))
    return jnp.concatenate(found, axis=1)


def make_batch(rows=3, length=6, slots=5, seed=0, width=16):
    rng = np.random.default_rng(seed)
    return {
        "ids": jnp.asarray(rng.integers(5, 40, (rows, length))),
        "seen": jnp.asarray(rng.normal(size=(rows, slots, width)), jnp.float32),
    }


def make_params(net, scale=0.3):
    shapes = jax.eval_shape(nn.init(at_once, net), jax.random.key(0), make_batch())["params"]
    rng = np.random.default_rng(1)

    def draw(path, x):
        values = scale * rng.normal(size=x.shape)
        return jnp.asarray(values + ("norm/scale" in rules.path_name(path)), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def world():
    layers = tiny_xfm.LAYER | tiny_xfm.STILL | {"layers": 2}
    net = tiny_xfm.model(fusion=layers, text=layers)
    return net, make_params(net)


SLOWER = pytest.param(False, 1, marks=pytest.mark.slow)


@pytest.mark.parametrize(("masked", "chunk"), [SLOWER, (True, 4)])
def test_token_by_token_gives_the_logits_of_the_whole_text(world, chunk, masked):
    net, params = world
    batch = make_batch()
    if masked:
        batch["slot_mask"] = jnp.arange(5) < jnp.array([5, 3, 1])[:, None]
    whole = tiny_xfm.apply(at_once, net, params, batch)
    assert whole.shape == (3, 6, 40)
    steps = tiny_xfm.apply(lambda net, batch: one_by_one(net, batch, chunk), net, params, batch)
    np.testing.assert_allclose(steps, whole, atol=1e-5)


@pytest.mark.slow
def test_so_it_is_for_other_layers_scanned_with_other_positions():
    layer = {"layers": 2, "norm": "pre", "layer_scale": 0.5}
    net = tiny_xfm.model(
        fusion=tiny_xfm.LAYER | tiny_xfm.STILL | layer,
        layer_loop="scan",
        position_offset="bert",
        pad_id=0,
    )
    params, batch = make_params(net), make_batch()
    whole = tiny_xfm.apply(at_once, net, params, batch)
    np.testing.assert_allclose(tiny_xfm.apply(one_by_one, net, params, batch), whole, atol=1e-5)


def test_a_token_sees_nothing_that_follows_it(world):
    net, params = world
    batch = make_batch()
    other = batch | {"ids": batch["ids"].at[:, 4:].set(1)}  # padding, which has a place of its own
    one, two = (tiny_xfm.apply(at_once, net, params, b) for b in (batch, other))
    np.testing.assert_array_equal(one[:, :4], two[:, :4])
    assert np.abs(one[:, 4] - two[:, 4]).max() > 1e-3


def test_slots_that_are_masked_are_not_seen(world):
    net, params = world
    batch = make_batch()
    batch["slot_mask"] = jnp.arange(5) < jnp.array([5, 3, 2])[:, None]
    other = batch | {"seen": jnp.where(batch["slot_mask"][..., None], batch["seen"], 7.0)}
    one, two = (tiny_xfm.apply(at_once, net, params, b) for b in (batch, other))
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_several_texts_of_a_row_and_rows_by_index_are_the_same_texts(world):
    net, params = world
    batch = make_batch()
    texts = jnp.stack([batch["ids"], batch["ids"][:, ::-1]], axis=1)  # i32[B 2 L]

    def call(net, texts, rows=None):
        decoder = decoder_of(net)
        return decoder(texts, ImageMemory(image=batch["seen"]), rows)

    together = tiny_xfm.apply(lambda net: call(net, texts), net, params)
    rows = jnp.array([0, 0, 1, 1, 2, 2])
    apart = tiny_xfm.apply(lambda net: call(net, texts.reshape(6, -1), rows), net, params)
    np.testing.assert_allclose(together.reshape(6, 6, -1), apart, atol=1e-5)


def test_dropout_needs_a_key_and_can_be_left_out():
    net = tiny_xfm.model(fusion=tiny_xfm.LAYER | {"dropout": 0.5})
    params, batch = make_params(net), make_batch()

    def call(net, drop):
        return decoder_of(net)(batch["ids"], ImageMemory(image=batch["seen"]), drop=drop)

    rngs = {"dropout": jax.random.key(0)}
    still = tiny_xfm.apply(lambda net: call(net, True), net, params)
    off = tiny_xfm.apply(lambda net: call(net, False), net, params, rngs=rngs)
    dropped = tiny_xfm.apply(lambda net: call(net, True), net, params, rngs=rngs)
    np.testing.assert_array_equal(still, off)
    assert np.abs(still - dropped).max() > 0.1


def test_too_many_tokens_for_the_positions_are_refused(world):
    net, params = world
    with pytest.raises(ValueError, match=r"texts of 11 tokens need 13 position .* has 12: lower"):
        tiny_xfm.apply(lambda net: decoder_of(net).empty(1, 1, 11), net, params)


def test_a_model_without_decoder_says_so():
    from unified_fm.models import vit

    with pytest.raises(ValueError, match="has no text decoder"):
        vit.Model().text_decoder()


SOURCES = {
    "language": (
        [(r"(text_embed/.*|mlm_head/.*)", rf"{NAME}/\1"), ("text/(.*)", rf"{NAME}/\1")],
        {"layer_00/cross_attn", "layer_00/cross_norm"},
    ),
    "fusion": (
        [
            ("fusion/(.*)", rf"{NAME}/\1"),
            (r"fusion_mlm_head/((?!embedding).*)", rf"{NAME}/mlm_head/\1"),
            ("fusion_mlm_head/embedding", f"{NAME}/text_embed/word/embedding"),
        ],
        {"text_embed/position", "text_embed/token_type", "text_embed/norm"},
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_it_starts_from_other_parts_of_a_checkpoint(name):
    copy, fresh = SOURCES[name]
    net = tiny_xfm.model()
    arrays = dict(rules.named_leaves(jax.device_get(tiny_xfm.params(net))))
    own = jax.eval_shape(nn.init(at_once, net), jax.random.key(0), make_batch())["params"]
    wanted = {k: x.shape for k, x in rules.named_leaves(own)}
    found = start.fitted(arrays, wanted, copy=copy, allow=[f"{NAME}/({'|'.join(fresh)})/.*", ".*"])
    new = {path.removeprefix(f"{NAME}/") for path in found.new}
    assert {part for part in fresh if any(path.startswith(part) for path in new)} == fresh
    assert not [path for path in new if not path.startswith(tuple(fresh))]
    assert not found.resized
    source = "text/layer_00" if name == "language" else "fusion/layer_00"
    np.testing.assert_array_equal(
        found.arrays[f"{NAME}/layer_00/self_attn/query/kernel"],
        arrays[f"{source}/self_attn/query/kernel"],
    )


def greedy_by_hand(net, params, batch, prompt, new, end):
    """Whole texts anew for every token, as nobody would do it."""
    known, logits_of = prompt.shape[1], tiny_xfm.jit(nn.apply(at_once, net))
    ids = np.pad(np.asarray(prompt), ((0, 0), (0, new)), constant_values=7)
    for place in range(known, known + new):
        logits = logits_of({"params": params}, batch | {"ids": jnp.asarray(ids)})
        ids[:, place] = np.asarray(logits)[:, place - 1].argmax(-1)
    found = ids[:, known:]
    after = np.cumsum(found == end, axis=1) - (found == end) > 0
    return np.where(after, end, found)


def written(how, **options):
    def call(net, batch, prompt):
        memory = ImageMemory(image=batch["seen"], slot_mask=batch.get("slot_mask"))
        return write(decoder_of(net), memory, prompt, how, **options)

    return call


@pytest.mark.parametrize("known", [1, 3])
def test_greedy_writing_is_the_best_token_each_time(world, known):
    net, params = world
    batch, prompt = make_batch(), make_batch(seed=5)["ids"][:, :known]
    how = Writing(max_new_tokens=5, min_new_tokens=0)
    free = greedy_by_hand(net, params, batch, prompt, 5, -1)
    end = int(free[0, 2])  # so that row 0 ends
    expected = greedy_by_hand(net, params, batch, prompt, 5, end)
    found = tiny_xfm.apply(written(how, end=end), net, params, batch, prompt)
    np.testing.assert_array_equal(found.ids[:, 0], expected)
    assert (expected[0, 2:] == end).all()


@pytest.mark.slow
def test_a_text_does_not_depend_on_padding_nor_on_other_rows(world):
    net, params = world
    how = Writing(beams=3, max_new_tokens=5)
    batch, prompt = make_batch(), jnp.full((3, 1), 2)
    batch["slot_mask"] = jnp.arange(5) < jnp.array([5, 3, 2])[:, None]
    call = written(how, end=4, never=(1,))
    together = tiny_xfm.apply(call, net, params, batch, prompt)
    wider = {
        "ids": batch["ids"],
        "seen": jnp.pad(batch["seen"], ((0, 0), (0, 3), (0, 0)), constant_values=9.0),
        "slot_mask": jnp.pad(batch["slot_mask"], ((0, 0), (0, 3))),
    }
    padded = tiny_xfm.apply(call, net, params, wider, prompt)
    np.testing.assert_array_equal(together.ids, padded.ids)
    np.testing.assert_allclose(together.scores, padded.scores, atol=1e-5)
    for row in range(3):
        one = jax.tree.map(lambda x, r=row: x[r : r + 1], batch)
        alone = tiny_xfm.apply(call, net, params, one, prompt[:1])
        np.testing.assert_array_equal(together.ids[row], alone.ids[0])
        np.testing.assert_allclose(together.scores[row], alone.scores[0], atol=1e-5)
    assert len({tuple(ids) for ids in np.asarray(together.ids).reshape(9, -1)}) > 3
