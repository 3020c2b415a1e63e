"""A task's own head in a model's tree: made when it is asked for, and shared by name."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import tiny_ufm, tiny_xfm
from unified_fm.models.heads import PairHead

TEXT = {"text": np.full((3, 6), 7, np.int32), "text_mask": np.ones((3, 6), bool)}
IMAGE = {"image": np.zeros((3, 8, 8, 3), np.uint8)}
NETS = {
    "xfm": (tiny_xfm.model, TEXT),
    "ufm": (tiny_ufm.student, TEXT | IMAGE),
    "bert": (tiny_ufm.text_teacher, TEXT),
    "vit": (tiny_ufm.image_teacher, IMAGE),
}


def score(net, batch):
    views = net(batch)
    states = views.text if views.text is not None else views.image
    return net.attach("task_head", PairHead(2))(states[:, 0])


def twice(net, batch):
    return score(net, batch), score(net, batch)


@pytest.mark.parametrize("name", NETS)
def test_a_head_lies_in_the_tree_of_any_model_under_its_own_name(name):
    make, batch = NETS[name]
    with_head = tiny_ufm.shapes(make(), score, batch)
    without = tiny_ufm.shapes(make(), lambda net, batch: net(batch), batch)
    assert {part: x.shape for part, x in with_head["task_head"]["out"].items()} == {
        "kernel": (32, 2),
        "bias": (2,),
    }
    chex.assert_trees_all_equal_structs(
        {k: v for k, v in with_head.items() if k in without}, without
    )
    assert set(with_head) - set(without) == {"task_head"}


def test_a_second_call_shares_the_parameters():
    net = tiny_xfm.model()
    chex.assert_trees_all_equal_shapes(
        tiny_ufm.shapes(net, twice, TEXT), tiny_ufm.shapes(net, score, TEXT)
    )
    tree = tiny_ufm.params(net, twice, TEXT)
    first, second = tiny_xfm.apply(twice, net, tree, TEXT)
    np.testing.assert_array_equal(first, second)
    expected = PairHead(2).apply(
        {"params": tree["task_head"]}, tiny_xfm.apply(lambda n, b: n(b).text, net, tree, TEXT)[:, 0]
    )
    np.testing.assert_allclose(first, expected, atol=1e-5)


def test_the_gradient_reaches_the_head_and_what_is_below():
    net = tiny_xfm.model()
    tree = tiny_ufm.params(net, score, TEXT)

    def loss(tree):
        return jnp.square(nn.apply(score, net)({"params": tree}, TEXT)).sum()

    grads = tiny_xfm.jit(jax.grad(loss))(tree)
    for part in ("task_head", "text", "text_embed"):
        assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads[part])) > 1e-6


def test_two_heads_have_their_own_parameters_and_draw_their_own_values():
    def two(net, batch):
        x = net(batch).text[:, 0]
        return [net.attach(f"{name}_head", PairHead(2))(x) for name in ("first", "second")]

    tree = jax.jit(nn.init(two, tiny_xfm.model()))(jax.random.key(0), TEXT)["params"]
    first, second = (tree[f"{name}_head"]["out"]["kernel"] for name in ("first", "second"))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("earlier", ["mlm_head", "task_head"])
@pytest.mark.parametrize("name", ["mlm_head", "text", "temperature"])
def test_the_name_of_a_part_of_the_model_is_refused(name, earlier):
    def clash(net, batch):
        x = net(batch).text
        head = net.mlm_head if earlier == "mlm_head" else net.attach(earlier, PairHead(2))
        return head(x), net.attach(name, PairHead(2))(x[:, 0])

    with pytest.raises(ValueError, match=f"part {name!r} of its own; another name"):
        tiny_ufm.shapes(tiny_xfm.model(), clash, TEXT)
