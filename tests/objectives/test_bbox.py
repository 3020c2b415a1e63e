"""bbox: L1 and GIoU of boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_xfm import jit
from tests.objectives import stubs
from unified_fm.objectives.bbox import Objective, corners, giou


@pytest.mark.parametrize(
    ("a", "b", "iou", "value"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1, 1),
        ([0, 0, 2, 2], [1, 0, 3, 2], 1 / 3, 1 / 3),  # hull 6, union 6
        ([0, 0, 1, 1], [2, 0, 3, 1], 0, -1 / 3),  # union 2, hull 3
        ([0, 0, 2, 2], [0.5, 0.5, 1.5, 1.5], 0.25, 0.25),  # inside
        ([0, 0, 1, 1], [1, 1, 2, 2], 0, -0.5),  # corner to corner: union 2, hull 4
        ([1, 1, 1, 1], [1, 1, 1, 1], 0, 0),  # two points: finite
    ],
)
def test_giou_of_boxes(a, b, iou, value):
    found = jit(giou)(jnp.array(a, jnp.float32), jnp.array(b, jnp.float32))
    np.testing.assert_allclose(found, [iou, value], atol=1e-6)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]),  # one point twice
        ([0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.7, 0.7]),  # two points
        ([0.2, 0.5, 0.4, 0.5], [0.6, 0.5, 0.8, 0.5]),  # two lines in a row
        ([0.5, 0.5, 0.5 + 1e-7, 0.5 + 1e-7], [0.5, 0.5, 0.5, 0.5]),
        ([0, 0, 1e-20, 1e-20], [0, 0, 1e-20, 1e-20]),  # the square of the area underflows
        ([0, 0, 1e-20, 1], [0, 0, 1e-10, 1e-10]),
        ([0.2, 0.2, 0.2, 0.2], [0.1, 0.1, 0.3, 0.3]),  # a point in a box
    ],
)
def test_A9_boxes_without_area_have_a_finite_gradient(a, b):
    a, b = jnp.array(a, jnp.float32), jnp.array(b, jnp.float32)
    for order in ((a, b), (b, a)):
        gradients = jit(jax.grad(lambda a, b: giou(a, b)[1], argnums=(0, 1)))(*order)
        assert np.isfinite(gradients).all()


def test_A9_the_loss_of_boxes_without_area_has_a_finite_gradient():
    """The box head may say so: a sigmoid far below zero is 0 in float32."""

    class Points(stubs.Net):
        def box_head(self, x):
            return jnp.array([1.0, 1, 0, 0]) * super().box_head(x)

    def loss(text):
        batch = stubs.make_batch() | {"box": jnp.tile(jnp.array([0.5, 0.5, 0, 0]), (4, 1))}
        views = stubs.make_views().replace(text=text)
        return stubs.value(Objective(stop_text_gradient=False), Points(), views, batch).loss

    value, gradient = stubs.gradient(loss, stubs.make_views().text)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert gradient.any()  # the distance still teaches


def test_corners_are_not_clipped():
    box = jnp.array([0.9, 0.5, 0.4, 0.2])
    np.testing.assert_allclose(corners(box), [0.7, 0.4, 1.1, 0.6], atol=1e-6)


def predicted(net, views):
    return np.asarray(net.box_head(views.text[:, 0] + views.pooled))


def run(batch, views=None, **options):
    return stubs.run(Objective(**options), views, batch)


def test_l1_and_giou_are_means_over_the_boxes():
    batch, views = stubs.make_batch(), stubs.make_views()
    output, [call] = run(batch)
    boxes = [0, 2, 3]  # row 1 describes a whole image
    guess, target = predicted(stubs.Net(), views)[boxes], np.asarray(batch["box"])[boxes]
    l1 = np.abs(guess - target).sum() / 3
    values = np.asarray(giou(corners(jnp.asarray(guess)), corners(jnp.asarray(target)))[1])
    assert output.parts["l1"][0] == pytest.approx(l1, rel=1e-5)
    assert output.parts["giou"][0] == pytest.approx(np.mean(1 - values), rel=1e-5)
    assert output.loss == pytest.approx(l1 + (1 - values).mean(), rel=1e-5)
    assert output.denominator == output.parts["l1"][1] == 3
    assert call["view"] == "image" and call["rows"] is None
    weighted, _ = run(batch, l1_weight=5.0, giou_weight=2.0)
    assert weighted.loss == pytest.approx(5 * l1 + 2 * (1 - values).mean(), rel=1e-5)


@pytest.mark.parametrize("bad", [[0.5, 0.5, -0.2, 0.2], [0.5, 0.5, np.nan, 0.2]])
def test_a_degenerate_box_is_left_out_alone_or_takes_the_whole_batch_with_it(bad):
    batch = stubs.make_batch()
    kept = jnp.array([0, 3])
    alone, _ = run(stubs.rows_of(batch, kept), stubs.rows_of(stubs.make_views(), kept))
    batch["box"] = batch["box"].at[2].set(jnp.array(bad))
    row, whole = (run(batch, degenerate=name)[0] for name in ("row", "batch"))
    # The denominator stays the number of boxes: 3, one of which adds nothing.
    assert row.parts["giou"][0] == pytest.approx(alone.parts["giou"][0] * 2 / 3, rel=1e-5)
    assert whole.parts["giou"][0] == 0


def test_a_degenerate_box_gives_no_nan_gradient():
    batch, views = stubs.make_batch(), stubs.make_views()
    batch["box"] = batch["box"].at[2].set(jnp.array([0.5, 0.5, -0.2, 0.2]))

    def loss(pooled):
        memory = views.image_memory.replace(row_mask=pooled)
        return stubs.value(Objective(), stubs.Net(), views.replace(image_memory=memory), batch).loss

    assert np.isfinite(stubs.gradient(loss, views.pooled)[1]).all()


def test_a_padded_row_may_hold_anything():
    batch = stubs.make_batch()
    clean, _ = run(batch | {"weight": jnp.array([1.0, 1, 0, 1])})
    batch["box"] = batch["box"].at[2].set(jnp.nan)
    for degenerate in ("row", "batch"):
        found, _ = run(batch | {"weight": jnp.array([1.0, 1, 0, 1])}, degenerate=degenerate)
        assert found.loss == pytest.approx(clean.loss, rel=1e-6)


def test_a_batch_without_boxes_costs_nothing():
    output, _ = run(stubs.make_batch() | {"is_image": jnp.ones(4, bool)})
    assert (output.loss, output.denominator) == (0, 0)


@pytest.mark.parametrize(("options", "moves"), [({}, False), ({"stop_text_gradient": False}, True)])
def test_bbox_moves_the_text_only_if_asked_to(options, moves):
    views, batch = stubs.make_views(), stubs.make_batch()

    def loss(text):
        return stubs.value(Objective(**options), stubs.Net(), views.replace(text=text), batch).loss

    assert stubs.gradient(loss, views.text)[1].any() == moves
