"""The shared encoder: its size, what reaches what, and what it can be started from exactly."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import tiny_ufm as tiny
from unified_fm import rules
from unified_fm.models import ufm
from unified_fm.objectives import classify, mlm

FULL = {
    "text": {
        "text_masked": jnp.zeros((1, 8), int),
        "text_mask": jnp.ones((1, 8), bool),
        "masked_positions": jnp.zeros((1, 2), int),
    },
    "image": {"image": jnp.zeros((1, 224, 224, 3), jnp.uint8)},
}


def test_the_size_of_the_student():
    """UFM section 2, at base size, without an image head."""
    tree = tiny.shapes(ufm.Model(), tiny.everything, FULL)
    assert tiny.size(tree) == 110_258_490
    assert tiny.size(tree["encoder"]) == 85_054_464 + 1_536
    assert tiny.size(tree["encoder"]["norm"]) == 1_536
    assert {tiny.size(tree["encoder"][f"layer_{n:02d}"]) for n in range(12)} == {7_087_872}


def test_names_of_parameters():
    net = tiny.student(modality_embedding=True, pre_logits=6)
    tree = tiny.shapes(net, tiny.everything, tiny.batches())
    found = {rules.path_name(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(tree)}
    layer = {name: x for name, x in found.items() if name.startswith("encoder/layer_00/")}
    assert {name: x for name, x in found.items() if name not in layer} == {
        "encoder/norm/bias": (16,),
        "encoder/norm/scale": (16,),
        "image_head/bias": (5,),
        "image_head/kernel": (6, 5),
        "mlm_head/bias": (40,),
        "mlm_head/dense/bias": (16,),
        "mlm_head/dense/kernel": (16, 16),
        "mlm_head/norm/bias": (16,),
        "mlm_head/norm/scale": (16,),
        "modality_embed/embedding": (2, 16),
        "patch_embed/bias": (16,),
        "patch_embed/kernel": (4, 4, 3, 16),
        "pre_logits/bias": (6,),
        "pre_logits/kernel": (16, 6),
        "text_embed/norm/bias": (16,),
        "text_embed/norm/scale": (16,),
        "text_embed/position/embedding": (12, 16),
        "text_embed/token_type/embedding": (2, 16),
        "text_embed/word/embedding": (40, 16),
        "vision/class_token": (1, 1, 16),
        "vision/position": (1, 5, 16),
    }
    assert len(layer) == 16
    assert layer["encoder/layer_00/self_attn/query/kernel"] == (16, 2, 8)


def test_each_loss_moves_its_tokenizer_and_head_and_the_shared_encoder():
    """UFM section 8, test 5: the gradients elsewhere are exactly zero."""
    net, both = tiny.student(), tiny.batches()
    tree = tiny.params(net, tiny.everything, both)
    tasks = {"text": mlm.Objective(), "image": classify.Objective()}

    def gradient(name):
        def loss(net, batch):
            return tasks[name](net, net(batch), batch).loss

        run = lambda tree, batch: nn.apply(loss, net)({"params": tree}, batch)  # noqa: E731
        return jax.jit(jax.grad(run), compiler_options=tiny.FAST)(tree, both[name])

    def largest(grads, part):
        return max(float(jnp.abs(x).max()) for x in jax.tree.leaves(grads[part]))

    only = {"text": ("text_embed", "mlm_head"), "image": ("patch_embed", "vision", "image_head")}
    for name, other in (("text", "image"), ("image", "text")):
        grads = gradient(name)
        assert {part for part in only[other] if largest(grads, part) != 0} == set()
        assert {part for part in only[name] if largest(grads, part) < 1e-5} == set()
        # A softmax over keys does not see a bias that all keys share.
        useful = [g for path, g in rules.named_leaves(grads["encoder"]) if "key/bias" not in path]
        assert min(float(jnp.abs(g).max()) for g in useful) > 1e-6


def test_padding_is_not_seen():
    net, both = tiny.student(), tiny.batches()
    tree = tiny.params(net, tiny.everything, both)
    batch = both["text"]
    other = batch | {"text_masked": np.where(batch["text_mask"], batch["text_masked"], 7)}
    one, two = (tiny.apply(lambda net, b: net(b).text_masked, net, tree, b) for b in (batch, other))
    np.testing.assert_array_equal(one[batch["text_mask"]], two[batch["text_mask"]])


def test_the_summary_of_an_image_is_its_class_token_or_the_mean():
    both = tiny.batches()
    tree = tiny.params(tiny.student(), tiny.everything, both)
    by_class, by_mean = (
        tiny.apply(lambda net, b: net(b).image, tiny.student(pool=pool), tree, both["image"])
        for pool in ("class", "mean")
    )
    np.testing.assert_array_equal(by_class[:, 1:], by_mean[:, 1:])
    np.testing.assert_allclose(by_mean[:, 0], by_class[:, 1:].mean(1), atol=1e-6)
    assert np.abs(by_mean[:, 0] - by_class[:, 0]).max() > 0.1


def test_masked_patches_are_hidden():
    net, both = tiny.student(mask_token=True), tiny.batches()
    batch = both["image"] | {"patch_mask": np.array([[True, False, False, True]] * 4)}
    tree = tiny.params(net, tiny.everything, {"text": both["text"], "image": batch})
    assert tree["vision"]["mask_token"].shape == (1, 1, 16)
    painted = batch["image"].copy()
    painted[:, :4, :4] = 0  # patch 0, which is masked
    run = lambda net, b: net(b).image_masked  # noqa: E731
    one = tiny.apply(run, net, tree, batch)
    two = tiny.apply(run, net, tree, batch | {"image": painted})
    np.testing.assert_array_equal(one, two)


def test_modality_embeddings_tell_image_from_text():
    net, both = tiny.student(modality_embedding=True), tiny.batches()
    tree = tiny.params(net, tiny.everything, both)
    plain = {name: x for name, x in tree.items() if name != "modality_embed"}
    plain["vision"] = dict(plain["vision"])
    plain["vision"]["position"] += tree["modality_embed"]["embedding"][0]
    one = tiny.apply(lambda net, b: net(b).image, net, tree, both["image"])
    two = tiny.apply(lambda net, b: net(b).image, tiny.student(), plain, both["image"])
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_a_pre_ln_student_starts_exactly_as_the_vit():
    """UFM section 2.1: the same function on images; the text tokenizer stays fresh."""
    both, teacher = tiny.batches(), tiny.image_teacher()
    found = tiny.params(teacher, tiny.targets, both["image"], seed=1)
    tree = tiny.params(tiny.student(), tiny.everything, both)
    layers = {name: x for name, x in found["vision"].items() if name.startswith("layer_")}
    tree |= {key: found[key] for key in ("patch_embed", "image_head")}
    tree["encoder"] = layers | {"norm": found["vision"]["norm"]}
    tree["vision"] = {key: found["vision"][key] for key in ("class_token", "position")}
    ours = tiny.apply(tiny.targets, tiny.student(), tree, both["image"])
    theirs = tiny.apply(tiny.targets, teacher, found, both["image"])
    np.testing.assert_array_equal(ours["image_hidden"], theirs["image_hidden"])
    np.testing.assert_array_equal(ours["image"], theirs["image"])


def test_a_post_ln_student_starts_exactly_as_the_bert():
    both, teacher = tiny.batches(), tiny.text_teacher()
    net = tiny.student(encoder=tiny.LAYERS | {"norm": "post", "eps": 1e-12})
    found = tiny.params(teacher, tiny.targets, both["text"], seed=1)
    tree = tiny.params(net, tiny.everything, both)
    assert "norm" not in tree["encoder"]
    tree |= {key: found[key] for key in ("text_embed", "mlm_head")} | {"encoder": found["text"]}
    ours = tiny.apply(tiny.targets, net, tree, both["text"])
    theirs = tiny.apply(tiny.targets, teacher, found, both["text"])
    np.testing.assert_array_equal(ours["text_hidden"], theirs["text_hidden"])
    np.testing.assert_array_equal(ours["mlm"], theirs["mlm"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"pool": "max"}, r"pool is 'max'; did you mean 'mean'\? Possible: class, mean"),
        ({"encoder": {"depth": 3}}, "an encoder has no field 'depth'"),
    ],
)
def test_wrong_options_are_refused(option, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tiny.shapes(tiny.student(**option), tiny.targets, tiny.batches()["image"])


def test_a_student_without_classes_says_so():
    net = tiny.student(classes=None)
    with pytest.raises(ValueError, match="no image head: set its option `classes`"):
        tiny.shapes(net, lambda net, b: net.image_head(net(b).pooled), tiny.batches()["image"])
