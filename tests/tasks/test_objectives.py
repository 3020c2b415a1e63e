"""Objectives of tasks on a tiny X-FM: gradient flow, and one source of loss and predictions."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import tiny_ufm, tiny_xfm
from unified_fm import joint
from unified_fm.models.views import Views
from unified_fm.plugins import build
from unified_fm.rules import path_name
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
TASKS = [name for name in CASES if name not in ("itc", "itm")]


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


@pytest.fixture(scope="module")
def found():
    """{case: (loss, gradients, predictions)}, compiled as one program."""
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

    def one(name, params):
        stream, key = {name: streams[name]}, jax.random.key(2)
        outputs = joint.outputs(net, stream, params, None, given, key, dropout=False)
        return outputs[name][name].loss

    def run(params):
        losses = {name: jax.value_and_grad(one, argnums=1)(name, params) for name in CASES}
        said = {
            name: joint.predictions(net, streams[name], name, params, given[name]) for name in TASKS
        }
        return losses, said

    losses, said = jax.device_get(tiny_xfm.jit(run)(params))
    return {name: (*losses[name], said.get(name)) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_stopped_before_an_encoder_in_fine_tuning(found, name):
    moved = {
        part
        for part, tree in found[name][1].items()
        if any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(tree))
    }
    assert moved == CASES[name][1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found[name][1]))


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("name", ["glue", "nlvr2"])
def test_the_loss_is_the_cross_entropy_of_the_predictions(found, name):
    loss, _, said = found[name]
    label = np.asarray(batches()[name]["label"])
    wanted = -log_softmax(said["logits"])[np.arange(ROWS), label].mean()
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert said["logits"].shape == (ROWS, {"glue": 3, "nlvr2": 2}[name])


def test_image_classes_are_smoothed(found):
    loss, _, said = found["image_classification"]
    targets = np.full((ROWS, 3), 0.1 / 3)
    targets[np.arange(ROWS), [0, 1, 2, 1]] += 0.9
    wanted = -(targets * log_softmax(said["logits"])).sum(-1).mean()
    assert loss == pytest.approx(wanted, rel=1e-5)


def test_answers_are_a_yes_or_no_each(found):
    loss, _, said = found["vqa"]
    logits = np.asarray(said["logits"], np.float64)
    targets = np.asarray(batches()["vqa"]["targets"])
    wanted = np.log1p(np.exp(logits)) - targets * logits
    assert loss == pytest.approx(wanted.sum(-1).mean(), rel=1e-5)


def test_boxes_of_expressions(found):
    loss, _, said = found["refcoco"]
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
    batch = {"image": batches()["image_classification"]["image"], "label": jnp.arange(4) % 3}
    objective = build("objectives", "image_classification", classes=3)
    still = objective(Pixels(trains=False), None, batch)
    logits = np.asarray(batch["image"], np.float64).mean((1, 2))
    targets = np.asarray(_mixing.soft(batch["label"], 3, 0.1), np.float64)
    assert still.loss == pytest.approx(-(targets * log_softmax(logits)).sum(-1).mean(), rel=1e-5)

    erasing, mixing = jax.random.split(jax.random.key(5))
    images = _mixing.erased(erasing, batch["image"] / 255.0 - 0.5, 0.25)
    images, mixed = _mixing.mixed(mixing, images, jnp.asarray(targets), mixup=0.8, cutmix=1.0)
    logits = np.asarray(images, np.float64).mean((1, 2))
    wanted = -(np.asarray(mixed, np.float64) * log_softmax(logits)).sum(-1).mean()
    assert objective(Pixels(trains=True), None, batch).loss == pytest.approx(wanted, rel=1e-4)
    assert not np.allclose(mixed, targets)

    plain = build("objectives", "image_classification", classes=3, mixup=0, cutmix=0, erasing=0)
    assert plain(Pixels(trains=True), None, batch).loss == pytest.approx(still.loss)
