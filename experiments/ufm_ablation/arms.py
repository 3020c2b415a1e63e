"""The arms of the experiment as settings of the library, and the two teachers.

All arms have one model, one recipe and one number of steps; they differ in the streams, in whether
teachers are asked, and in how the two gradients are merged on the shared encoder.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.ufm_ablation.corpus import Corpus
from experiments.ufm_ablation.sizes import Sizes
from unified_fm.config.settings import Settings

SHARED = "encoder/.*"
# What a cache says of the words beyond a teacher's best. Version 1 of this experiment, whose
# results do not name it, gave all of them the same probability.
REST = "one lump"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to pre-train.

    Attributes:
        about: what it is, for the table.
        streams: which are trained on.
        distil: whether the teachers are asked.
        merge: settings of the merge; "sum" where nothing is said.
    """

    about: str
    streams: tuple[str, ...] = ("image", "text")
    distil: bool = False
    merge: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "sum"})


def _igm(**options: Any) -> dict[str, Any]:
    return {"name": "igm", "shared": SHARED, "owner": "text", "t0": 0.05, "t1": 0.5, **options}


def _static(**weights: float) -> dict[str, Any]:
    return {"name": "static", "shared": SHARED, "weights": weights}


ARMS: Mapping[str, Arm] = {
    "vit_only": Arm(about="images alone", streams=("image",)),
    "bert_only": Arm(about="text alone", streams=("text",)),
    "joint": Arm(about="both, gradients summed"),
    "joint_kd": Arm(about="joint, and teachers", distil=True),
    "joint_igm": Arm(about="joint, gradients masked", merge=_igm()),
    "joint_kd_igm": Arm(about="joint, teachers and masks", distil=True, merge=_igm()),
    "joint_pcgrad": Arm(
        about="joint, conflicts projected out", merge={"name": "pcgrad", "shared": SHARED}
    ),
    "joint_igm_random": Arm(about="control: masks drawn at random", merge=_igm(score="random")),
    "joint_igm_swapped": Arm(about="control: image owns the entries", merge=_igm(owner="image")),
    # Of ratio 4, with the sum of the weights as in `joint`.
    "joint_static_image": Arm(about="image counts 4 times", merge=_static(image=1.6, text=0.4)),
    "joint_static_text": Arm(about="text counts 4 times", merge=_static(image=0.4, text=1.6)),
}
SEPARATE = {"image": "vit_only", "text": "bert_only"}  # the arm that a stream has for itself


def student(sizes: Sizes, corpus: Corpus) -> dict[str, Any]:
    """The model of every arm, without its name: options of `models/ufm.py`."""
    return dict(
        vocab_size=corpus.words,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        classes=corpus.classes,
        encoder=_stack(sizes.layers, sizes.width, sizes.heads),
        max_positions=sizes.max_len,
        word_std=sizes.word_std,
        position_std=sizes.position_std,
        patch_position_std=sizes.patch_position_std,
    )


def config(name: str, sizes: Sizes, corpus: Corpus, caches: Mapping[str, Any]) -> Settings:
    """The complete settings of an arm.

    Args:
        name: of ARMS.
        sizes: of the experiment.
        corpus: for the numbers of words and classes.
        caches: {teacher: folder of what it says}.
    """
    arm = ARMS[name]
    alpha = sizes.alpha
    distil = {
        "image": dict(teacher="vit", of="image", temperature=sizes.image_temperature),
        "text": dict(teacher="bert", of="mlm", temperature=sizes.text_temperature),
    }
    objectives = {}
    for stream, key in (("image", "classify"), ("text", "mlm")):
        objectives[stream] = {key: 1.0}
        if arm.distil:
            objectives[stream] = {key: 1 - alpha, "distill": dict(weight=alpha, **distil[stream])}
    merge = dict(arm.merge)
    if merge["name"] == "igm":
        merge["final_ratio"] = sizes.final_ratio
    teachers = {
        teacher: dict(cache=str(caches[teacher]), streams=[stream])
        for teacher, stream in (("vit", "image"), ("bert", "text"))
        if arm.distil
    }
    return _complete(
        model={"name": "ufm", **student(sizes, corpus)},
        objectives={stream: objectives[stream] for stream in arm.streams},
        total_steps=sizes.steps,
        lr=sizes.lr,
        sizes=sizes,
        merge=merge,
        teachers=teachers,
    )


def teacher_config(name: str, sizes: Sizes, corpus: Corpus) -> Settings:
    """The complete settings of a teacher, "vit" or "bert": alone on its stream, and larger."""
    stack = _stack(sizes.teacher_layers, sizes.teacher_width, 2)
    if name == "vit":
        pixels = dict(image_size=sizes.image_size, patch_size=sizes.patch_size)
        model = dict(classes=corpus.classes, vision=stack, **pixels)
        model["position_std"] = sizes.patch_position_std
        objectives = {"image": {"classify": 1.0}}
    else:
        # Pre-LN learns faster in a short run, as configs/teacher_bert.py:demo has it.
        stack |= dict(norm="pre", dropout=0.0, attention_dropout=0.0)
        model = dict(vocab_size=corpus.words, text=stack, max_positions=sizes.max_len)
        model |= dict(word_std=sizes.word_std, position_std=sizes.position_std)
        objectives = {"text": {"mlm": 1.0}}
    return _complete(
        model={"name": name, **model},
        objectives=objectives,
        total_steps=sizes.teacher_steps,
        lr=sizes.teacher_lr,
        sizes=sizes,
    )


def tuning_config(sizes: Sizes, *, model: Mapping[str, Any], objective: str) -> Settings:
    """The settings of fine-tuning, of a model with a head and the plugin of its objective."""
    return _complete(
        model=model,
        objectives={"task": {"label": {"name": objective}}},
        total_steps=sizes.tune_steps,
        lr=sizes.tune_lr,
        sizes=sizes,
    )


def _stack(layers, width, heads):
    return dict(layers=layers, width=width, heads=heads, mlp_width=4 * width)


def _complete(*, model, objectives, total_steps, lr, sizes, merge=None, teachers=None):
    streams = {
        stream: dict(pipeline="arrays", source="memory", batch_size=sizes.batch, objectives=chosen)
        for stream, chosen in objectives.items()
    }
    return Settings.of(
        dict(
            model=model,
            streams=streams,
            gradient_groups={stream: [stream] for stream in streams},
            merge=merge or {"name": "sum"},
            teachers=teachers or {},
            total_steps=total_steps,
            optimizer=dict(
                lr=lr,
                b1=0.9,
                b2=0.999,
                weight_decay=sizes.weight_decay,
                clip=1.0,
                project=(),
                schedule=dict(name="cosine", warmup="5%"),
            ),
            rules=dict(weight_decay=[(".*/kernel", 1.0), (".*", 0.0)]),
            spikes=dict(window=0),
        )
    )
