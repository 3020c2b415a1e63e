"""Objectives of tasks: one source of loss and predictions, and gradients to every encoder.

The numbers are followed by hand through a stand-in; that the gradient of fine-tuning reaches the
parameters of all encoders of a real, tiny X-FM is slow to compile.
"""

import dataclasses
import functools
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import tiny_ufm, tiny_xfm
from tests.objectives import stubs
from unified_fm import joint
from unified_fm.models.views import ImageMemory, Views
from unified_fm.objectives import base
from unified_fm.plugins import build
from unified_fm.rules import named_leaves, path_name
from unified_fm.tasks import _mixing

TEXT = {"text_embed", "text"}
VISION = {"patch_embed", "vision"}
ROWS = 4
# Objective -> (options, the parts that the gradient of fine-tuning reaches).
CASES = {
    "glue": ({"task": "mnli"}, TEXT | {"glue_head"}),
    "nlvr2": ({}, TEXT | VISION | {"fusion", "nlvr2_head"}),
    "vqa": ({"classes": 5}, TEXT | VISION | {"fusion", "vqa_head"}),
    "refcoco": ({}, TEXT | VISION | {"fusion", "box_head"}),
    "image_classification": ({"classes": 3}, VISION | {"class_head"}),
    "itc": ({"targets": "ids"}, TEXT | VISION | {"text_proj", "image_proj", "temperature"}),
    "itm": (
        {"exclude": "ids", "stop_text_gradient": False},
        TEXT | VISION | {"fusion", "itm_head"},
    ),
}


class Net(stubs.Net):
    """As the other stand-in, with a linear head for each task; an image is its mean colour."""

    sentence_head = "layers"

    def __call__(self, batch):
        colour = jnp.asarray(batch["image"], jnp.float32).mean((1, 2)) / 255.0
        return Views(image=(colour @ self.kernels[4][:3])[:, None])

    def remember(self, image):
        return ImageMemory(row_mask=image[:, 0])

    def attach(self, name, head):
        outputs = head.classes if hasattr(head, "classes") else head.outputs
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        return lambda x: x @ jnp.asarray(rng.normal(size=(x.shape[-1], outputs)), jnp.float32)

    def has_rng(self, name):
        return False


def batches():
    """One batch for each case."""
    rng = np.random.default_rng(0)
    pairs = {**tiny_xfm.make_batches(ROWS)["pairs"]}
    plain = {key: pairs[key] for key in ("text", "text_mask", "image", "example_id")}
    both = rng.integers(0, 256, (ROWS, 2, 16, 16, 3)).astype(np.uint8)
    targets = np.array([[0, 0.3, 0, 1, 0], [0.6, 0, 0, 0, 0], [0] * 5, [0, 0, 0, 0, 0.9]])
    label = jnp.array([0, 1, 2, 1])
    words = {key: plain[key] for key in ("text", "text_mask")}
    box = jnp.asarray(rng.uniform(0.3, 0.6, (ROWS, 4)), jnp.float32)
    return {
        "glue": words | {"label": label},
        "nlvr2": words | {"images": both, "label": label % 2},
        "vqa": plain | {"targets": jnp.asarray(targets, jnp.float32)},
        "refcoco": plain | {"box": box, "is_image": jnp.zeros(ROWS, bool)},
        "image_classification": {"image": plain["image"], "label": label},
        "itc": plain,
        "itm": plain,
    }


def made(name):
    return build("objectives", name, **CASES[name][0])


def found(name):
    """(loss, predictions) of the stand-in."""
    net, views, batch = Net(), stubs.make_views(), batches()[name]
    loss = stubs.value(made(name), net, views, batch).loss
    return jax.device_get((loss, base.predicted(net, made(name), views, batch)))


@pytest.fixture(scope="module")
def gradients():
    """{case: gradients} of a tiny X-FM with random parameters, compiled as one program."""
    net, given = tiny_xfm.model(), batches()
    streams = {
        name: joint.Stream(objectives={name: made(name)}, weights={name: 1.0}) for name in CASES
    }

    def everything(net, given):
        for name, objective in ((name, made(name)) for name in CASES):
            views = net(given[name])
            joint.answered(
                {(name, ""): objective(net, views, given[name])},
                {name: net},
                {(name, ""): None},
                joint=False,
            )

    rngs = {name: jax.random.key(1) for name in ("params", "objective")}
    shapes = jax.eval_shape(nn.init(everything, net), rngs, given)["params"]
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        values = 0.3 * rng.normal(size=leaf.shape)
        name = path_name(path)
        values += name.endswith("norm/scale") or "/scale_" in name
        return jnp.asarray(0.2 if name == "temperature" else values, jnp.float32)

    params = jax.tree_util.tree_map_with_path(draw, shapes)

    def one(params, name):
        stream, key = {name: streams[name]}, jax.random.key(2)
        outputs = joint.outputs(net, stream, params, None, given, key, dropout=False)
        return outputs[name][name].loss

    def run(params):
        return {name: jax.grad(one)(params, name) for name in CASES}

    return jax.device_get(tiny_xfm.jit(run)(params))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_stopped_before_an_encoder_in_fine_tuning(gradients, name):
    moved = {
        part
        for part, tree in gradients[name].items()
        if any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(tree))
    }
    assert moved == CASES[name][1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients[name]))


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("name", ["glue", "nlvr2"])
def test_the_loss_is_the_cross_entropy_of_the_predictions(name):
    loss, said = found(name)
    label = np.asarray(batches()[name]["label"])
    wanted = -log_softmax(said["logits"])[np.arange(ROWS), label].mean()
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert said["logits"].shape == (ROWS, {"glue": 3, "nlvr2": 2}[name])


def test_image_classes_are_smoothed():
    loss, said = found("image_classification")
    targets = np.full((ROWS, 3), 0.1 / 3)
    targets[np.arange(ROWS), [0, 1, 2, 1]] += 0.9
    wanted = -(targets * log_softmax(said["logits"])).sum(-1).mean()
    assert loss == pytest.approx(wanted, rel=1e-5)


def test_answers_are_a_yes_or_no_each():
    loss, said = found("vqa")
    logits = np.asarray(said["logits"], np.float64)
    targets = np.asarray(batches()["vqa"]["targets"])
    wanted = np.log1p(np.exp(logits)) - targets * logits
    assert loss == pytest.approx(wanted.sum(-1).mean(), rel=1e-5)


def test_boxes_of_expressions():
    loss, said = found("refcoco")
    predicted, target = np.float64(said["box"]), np.float64(batches()["refcoco"]["box"])
    l1 = np.abs(predicted - target).sum(-1).mean()
    corners = [
        np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], 1)
        for b in (predicted, target)
    ]
    low, high = np.maximum(*[c[:, :2] for c in corners]), np.minimum(*[c[:, 2:] for c in corners])
    inter = np.maximum(high - low, 0).prod(-1)
    union = predicted[:, 2:].prod(-1) + target[:, 2:].prod(-1) - inter
    hull = np.maximum(*[c[:, 2:] for c in corners]) - np.minimum(*[c[:, :2] for c in corners])
    hull = hull.prod(-1)
    giou = inter / union - (hull - union) / hull
    assert loss == pytest.approx(l1 + (1 - giou).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("model", "head"),
    [
        (tiny_xfm.model(), {"dense", "norm", "out"}),
        (tiny_ufm.student(), {"pooler", "out"}),
        (tiny_ufm.text_teacher(), {"pooler", "out"}),
    ],
    ids=["xfm", "ufm", "bert"],
)
def test_a_text_task_has_the_head_of_the_models_family(model, head):
    text = tiny_ufm.batches()["text"]
    batch = {key: text[key] for key in ("text", "text_mask")} | {"label": jnp.zeros(4, int)}

    def run(net, batch, **options):
        return build("objectives", "glue", task="rte", **options)(net, net(batch), batch).loss

    assert set(tiny_ufm.shapes(model, run, batch)["glue_head"]) == head
    layers = functools.partial(run, head="layers")
    assert set(tiny_ufm.shapes(model, layers, batch)["glue_head"]) == {"dense", "norm", "out"}


# As BEiT-2's files say it: biases by place instead of positions, the mean of the patches.
BEIT = tiny_ufm.image_teacher(
    absolute_positions=False,
    pool="mean",
    vision=tiny_ufm.LAYERS | {"relative_position_bias": True, "layer_scale": 0.1},
)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(tiny_ufm.student(), id="ufm"),
        pytest.param(tiny_ufm.image_teacher(), id="vit", marks=pytest.mark.slow),
        pytest.param(BEIT, id="beit", marks=pytest.mark.slow),
    ],
)
def test_a_task_of_images_trains_every_encoder_of_images(model):
    batch = tiny_ufm.batches()["image"]

    def run(net, batch):
        objective = build("objectives", "image_classification", classes=tiny_ufm.CLASSES)
        return objective(net, None, batch).loss

    tree = tiny_ufm.params(model, run, batch)
    assert tree["class_head"] and "image_head" not in tree
    gradient = jax.grad(lambda tree: nn.apply(run, model)({"params": tree}, batch))
    found = jax.jit(gradient, compiler_options=tiny_ufm.FAST)(tree)
    still = {name for name, leaf in named_leaves(found) if not jnp.any(leaf)}
    assert not {name for name in still if "mask_token" not in name}


@dataclasses.dataclass
class Pixels:
    """A net whose logits are the means of the channels."""

    trains: bool

    def __call__(self, batch):
        return Views(image=batch["image"].astype(jnp.float32).mean((1, 2))[:, None])

    def has_rng(self, name):
        return self.trains and name == "dropout"

    def make_rng(self, name):
        assert name == "objective"
        return jax.random.key(5)

    def normalised(self, image):
        return image / 255.0 - 0.5

    def attach(self, name, head):
        assert (name, head.classes) == ("class_head", 3)
        return lambda x: x


def test_images_are_erased_and_mixed_in_training_alone():
    image, label = batches()["image_classification"]["image"], jnp.arange(4) % 3
    batch = {"image": image, "label": label}
    soft = _mixing.soft(label, 3, 0.1)

    def run(batch):
        objective = build("objectives", "image_classification", classes=3)
        plain = dataclasses.replace(objective, mixup=0, cutmix=0, erasing=0)
        losses = [objective(Pixels(trains=trains), None, batch).loss for trains in (False, True)]
        losses.append(plain(Pixels(trains=True), None, batch).loss)
        erasing, mixing = jax.random.split(jax.random.key(5))
        images = _mixing.erased(erasing, batch["image"] / 255.0 - 0.5, 0.25)
        return losses, _mixing.mixed(mixing, images, soft, mixup=0.8, cutmix=1.0)

    (still, changed, plain), (images, mixed) = jax.device_get(tiny_xfm.jit(run)(batch))
    unchanged = cross_entropy(np.asarray(image, np.float64).mean((1, 2)), soft)
    assert (still, plain) == pytest.approx((unchanged, unchanged), rel=1e-5)
    assert changed == pytest.approx(cross_entropy(images.mean((1, 2)), mixed), rel=1e-4)
    assert not np.allclose(mixed, soft)


def cross_entropy(logits, targets):
    return -(np.asarray(targets, np.float64) * log_softmax(logits)).sum(-1).mean()
