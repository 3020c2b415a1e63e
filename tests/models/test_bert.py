"""BERT as a plain model: its size, its heads, and where its weights come from."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.convert import test_parity as parity
from tests.models import tiny_ufm as tiny
from unified_fm.models import bert

FULL = {
    "text_masked": jnp.zeros((1, 8), int),
    "text_mask": jnp.ones((1, 8), bool),
    "masked_positions": jnp.zeros((1, 2), int),
}


def test_sizes_of_bert_base():
    """UFM section 2."""
    pooled = tiny.shapes(bert.Model(), lambda net, b: net.pooled_text(net(b).text_masked), FULL)
    assert tiny.size(pooled) == 109_482_240
    taught = tiny.shapes(bert.Model(), tiny.targets, FULL)
    assert tiny.size(taught["mlm_head"]) == 622_650
    assert "pooler" not in taught


@pytest.mark.parametrize("name", ["bert_small", "bert_odd"])
def test_masked_word_logits_are_those_of_transformers(name):
    """Through `targets`, as a teacher is used: at two positions, and at all of them."""
    config, params, inputs, outputs = parity.read(name)
    tree = parity.import_golden(name, params, config)
    net = bert.Model(
        vocab_size=config["vocab_size"],
        max_positions=config["max_position_embeddings"],
        text={
            "layers": config["num_hidden_layers"],
            "width": config["hidden_size"],
            "heads": config["num_attention_heads"],
            "mlp_width": config["intermediate_size"],
        },
    )
    batch = {
        "text_masked": inputs["input_ids"],
        "text_mask": inputs["attention_mask"].astype(bool),
        "segments": inputs["token_type_ids"],
        "masked_positions": np.array([[2, 1], [0, 8], [3, 3]]),
    }
    found = tiny.apply(tiny.targets, net, tree, batch)
    at = np.take_along_axis(outputs["mlm_logits"], batch["masked_positions"][..., None], axis=1)
    np.testing.assert_allclose(found["mlm"], at, atol=1e-5, rtol=0)
    np.testing.assert_allclose(found["mlm_all"], outputs["mlm_logits"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(found["text_hidden"], outputs["hidden"], atol=1e-5, rtol=0)


def test_segments_count_and_are_zero_by_default():
    net, batch = tiny.text_teacher(), tiny.batches()["text"]
    tree = tiny.params(net, tiny.targets, batch)

    def run(**more):
        return tiny.apply(lambda net, b: net(b).text, net, tree, batch | more)

    np.testing.assert_array_equal(run(), run(segments=np.zeros((4, 9), np.int32)))
    assert np.abs(run() - run(segments=np.ones((4, 9), np.int32))).max() > 0.01


def test_a_text_longer_than_the_positions_is_refused():
    net, batch = tiny.text_teacher(max_positions=8), tiny.batches()["text"]
    with pytest.raises(ValueError, match=r"9 tokens need 9 position embeddings .* is 8"):
        tiny.shapes(net, tiny.targets, batch)
