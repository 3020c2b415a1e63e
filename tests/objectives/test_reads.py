"""What objectives say that they read: no more, no less, and with the gradient that they say."""

import jax
import jax.numpy as jnp
import pytest

from tests.models import tiny_ufm, tiny_xfm
from tests.objectives import stubs
from unified_fm import joint, step
from unified_fm.models.views import INPUTS
from unified_fm.objectives import base
from unified_fm.plugins import build

CASES = {
    "mlm": {},
    "imlm": {},
    "imlm moving": {"stop_text_gradient": False},
    "mim": {},
    "mim ema": {"target": "ema"},
    "itc": {},
    "itc still": {"stop_text_gradient": True},
    "itm": {},
    "itm moving": {"stop_text_gradient": False},
    "bbox": {},
    "bbox moving": {"stop_text_gradient": False},
    "classify": {},
    "glue": {"task": "mnli"},
    "vqa": {"classes": 5},
    "refcoco": {},
    "distill image": {"teacher": "vit", "of": "image"},
    "distill mlm": {"teacher": "bert", "of": "mlm"},
}


class Net(stubs.Net):
    sentence_head = "layers"

    def image_head(self, x):
        return x @ self.kernels[7]

    def attach(self, name, head):
        return lambda x: x @ self.kernels[7][:, : head.outputs]


def objective_of(case):
    return build("objectives", case.split()[0], **CASES[case])


def loss_of(case, views):
    batch = stubs.make_batch() | {"label": jnp.arange(4) % 3, "targets": jnp.eye(4, 5)}
    seen = stubs.make_views(seed=1)
    batch["teacher"] = {
        "ema": {"image": seen.image},
        "vit": {"image": seen.text[:, 0] @ Net().kernels[7]},
        "bert": {"mlm": seen.text[:, :2] @ Net().kernels[7]},
    }
    return stubs.value(objective_of(case), Net(), views, batch).loss


QUICK = ("mlm", "mim")  # to compile; the others run in the slow stage


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_the_gradient_flows_where_it_is_said_to(case):
    reads = objective_of(case).reads
    views = stubs.make_views()
    others = {view: None for view in INPUTS if view not in reads}
    assert loss_of(case, views.replace(**others)) == loss_of(case, views)

    gradient = jax.grad(lambda views: loss_of(case, views))(views)
    moved = {
        view: any(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(vars(gradient)[view]))
        for view in reads
    }
    assert moved == dict(reads)


def program(model, **streams):
    made = {
        name: joint.Stream(objectives={key: build("objectives", key) for key in keys}, weights={})
        for name, keys in streams.items()
    }
    return step.Program(model=model, streams=made, groups={"all": list(made)})


@pytest.mark.parametrize(
    ("model", "stream", "objective", "message"),
    [
        (
            tiny_xfm.model,
            "image",
            "mlm",
            "objective 'mlm' of stream 'image' reads text_masked, which unified_fm.models.xfm does "
            "not give here: it gives image, image_masked, pooled of batches with image, patch_mask",
        ),
        (tiny_xfm.model, "text", "imlm", "reads image_memory, which"),
        (tiny_ufm.student, "pairs", "itm", "reads image_memory, which unified_fm.models.ufm"),
        (tiny_ufm.student, "image", "pixels", "reads image_masked, which unified_fm.models.ufm"),
        (tiny_ufm.image_teacher, "text", "mlm", "it gives nothing of batches with masked_ids"),
        (tiny_ufm.text_teacher, "image", "mim", "reads image, image_masked, which unified_fm.mo"),
        (
            tiny_ufm.text_teacher,
            "pairs",
            "nlvr2",
            "objective 'nlvr2' of stream 'pairs' encodes a batch itself and needs image, "
            "image_memory, which unified_fm.models.bert never gives: of the views it has text, "
            "text_masked",
        ),
        (tiny_ufm.student, "pairs", "nlvr2", "needs image_memory, which unified_fm.models.ufm"),
        (tiny_ufm.image_teacher, "pairs", "nlvr2", "'pairs' reads text, which unified_fm.model"),
    ],
)
def test_a_stream_that_cannot_give_it_is_refused_before_tracing(model, stream, objective, message):
    batch = tiny_xfm.make_batches()[stream]
    made = program(model(), **{stream: [objective]})
    with pytest.raises(ValueError) as error:
        made.check({stream: list(batch)})
    assert message in str(error.value)
    with pytest.raises(ValueError) as error:
        step.init_params(made, {}, {stream: dict.fromkeys(batch)})  # no arrays: nothing is traced
    assert message in str(error.value)


def test_classes_of_images_need_a_model_of_images():
    objective = build("objectives", "image_classification", classes=3)
    stream = joint.Stream(objectives={"classes": objective}, weights={})
    for model in (tiny_xfm.model(), tiny_ufm.student(), tiny_ufm.image_teacher()):
        stream.check("task", model, ["image", "label"])
    with pytest.raises(ValueError, match="'classes' of stream 'task' encodes a batch itself and"):
        stream.check("task", tiny_ufm.text_teacher(), ["image", "label"])


def test_streams_that_can_are_let_through():
    names = {
        "text": ["mlm"],
        "image": ["mim", "pixels"],
        "pairs": ["itc", "itm", "imlm", "mim", "pixels", "nlvr2"],
        "regions": ["itc", "itm", "imlm", "bbox"],
    }
    program(tiny_xfm.model(), **names).check(tiny_xfm.make_batches())
    program(tiny_ufm.student(mask_token=True), image=["pixels"], text=["mlm"]).check(
        tiny_xfm.make_batches()
    )


def test_an_objective_that_says_nothing_reads_nothing_and_accumulates():
    class Quiet(base.Objective):
        def __call__(self, net, views, batch):
            return base.Output(loss=jnp.float32(0), denominator=jnp.float32(0))

    found = Quiet()
    assert (dict(found.reads), found.accumulates) == ({}, True)
    assert (tuple(found.ema_reads), dict(found.lessons)) == ((), {})


def test_distillation_says_what_it_reads_of_its_teacher():
    hidden = build("objectives", "distill", teacher="bert", of="mlm", kind="hidden_cos")
    assert hidden.lessons == {"bert": ("text_hidden", "hidden_cos", 1.0)}
    words = build("objectives", "distill", teacher="b", of="mlm", positions="all", temperature=2)
    assert words.lessons == {"b": ("mlm_all", "kl", 2)}


def test_a_model_without_a_common_space_says_so():
    made = program(tiny_ufm.student(), pairs=["itc"])
    text, image = tiny_ufm.batches().values()
    with pytest.raises(ValueError, match=r"models.ufm.* has no common space of texts and images"):
        jax.eval_shape(lambda batch: step.init_params(made, {}, {"pairs": batch}), text | image)
