"""ViT as a plain model: its size, its head, and where its weights come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.convert import test_parity as parity
from tests.models import tiny_ufm as tiny
from unified_fm.models import vit
from unified_fm.models.heads import ClassHead, PooledHead

IMAGE = {"image": jnp.zeros((1, 224, 224, 3), jnp.uint8)}


def test_sizes_of_vit_base():
    """UFM section 2; 102,595,923 with the 21,843 classes of AugReg's files."""
    backbone = tiny.shapes(vit.Model(), lambda net, b: net(b).image, IMAGE)
    assert tiny.size(backbone) == 85_798_656
    whole = tiny.shapes(vit.Model(classes=21_843), tiny.targets, IMAGE)
    assert tiny.size(whole) == 102_595_923
    with_layer = tiny.shapes(vit.Model(classes=2, pre_logits=768), tiny.targets, IMAGE)
    assert tiny.size(with_layer["pre_logits"]) == 768 * 768 + 768


@pytest.mark.parametrize("name", ["vit_small", "vit_odd"])
def test_class_logits_are_those_of_transformers(name):
    config, params, inputs, outputs = parity.read(name)
    tree = parity.import_golden(name, params, config)
    net = vit.Model(
        image_size=config["image_size"],
        patch_size=config["patch_size"],
        classes=7,
        vision={
            "layers": config["num_hidden_layers"],
            "width": config["hidden_size"],
            "heads": config["num_attention_heads"],
            "mlp_width": config["intermediate_size"],
        },
    )
    batch = {"image": inputs["pixel_values"].transpose(0, 2, 3, 1)}
    found = tiny.apply(tiny.targets, net, tree, batch)
    np.testing.assert_allclose(found["image"], outputs["logits"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(found["image_hidden"], outputs["hidden"], atol=1e-5, rtol=0)


def test_bytes_are_normalised_to_minus_one_and_one():
    net, batch = tiny.image_teacher(), tiny.batches()["image"]
    tree = tiny.params(net, tiny.targets, batch)
    floats = {"image": batch["image"] / np.float32(127.5) - 1}
    one, two = (tiny.apply(tiny.targets, net, tree, b)["image"] for b in (batch, floats))
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_the_image_head_starts_at_its_bias():
    net, batch = tiny.image_teacher(head_bias=-10.0), tiny.batches()["image"]
    init = jax.jit(lambda key: net.init(key, batch, method="targets"), compiler_options=tiny.FAST)
    tree = init(jax.random.key(0))["params"]
    np.testing.assert_array_equal(tree["image_head"]["kernel"], np.zeros((16, 5)))
    np.testing.assert_array_equal(tree["image_head"]["bias"], np.full(5, -10.0))


def test_a_dense_layer_with_tanh_below_the_head():
    net, batch = tiny.image_teacher(pre_logits=6), tiny.batches()["image"]
    tree = tiny.params(net, tiny.targets, batch)
    found = tiny.apply(tiny.targets, net, tree, batch)
    below = np.tanh(dense(tree["pre_logits"], found["image_hidden"][:, 0]))
    expected = dense(tree["image_head"], below)
    np.testing.assert_allclose(found["image"], expected, atol=1e-5)


def test_heads_for_fine_tuning():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
    head = ClassHead(2)
    np.testing.assert_array_equal(head.apply(head.init(jax.random.key(0), x), x), np.zeros((3, 2)))
    head = PooledHead(2, dropout=0.5)
    tree = head.init(jax.random.key(0), x)
    layers = tree["params"]
    below = np.tanh(x @ layers["pooler"]["kernel"])
    np.testing.assert_allclose(head.apply(tree, x), below @ layers["out"]["kernel"], atol=1e-6)
    dropped = head.apply(tree, x, rngs={"dropout": jax.random.key(1)})
    assert np.abs(dropped - head.apply(tree, x)).max() > 1e-3


def dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]
