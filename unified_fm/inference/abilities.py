"""What a checkpoint can do, which its parameters tell, and what trains the rest."""

import dataclasses
from collections.abc import Collection, Mapping

METHODS = (
    "encode_image",
    "encode_text",
    "similarity",
    "match",
    "search",
    "locate",
    "fill_mask",
    "classify",
    "answer",
    "caption",
)
_IMAGES, _TEXTS, _BOTH = {"images"}, {"texts"}, {"images", "texts"}
# Ability -> what it needs: "images" and "texts" that can be read, "class", "answer" and "caption"
# that an objective of the run predicts, and first components of the paths of its parameters.
_NEEDS: Mapping[str, Collection[str]] = {
    "encode_image": _IMAGES,
    "encode_text": _TEXTS,
    "image_projection": _IMAGES | {"image_proj"},
    "text_projection": _TEXTS | {"text_proj"},
    "similarity": _BOTH | {"text_proj", "image_proj"},
    "search": _BOTH | {"text_proj", "image_proj"},
    "match": _BOTH | {"fusion", "itm_head"},
    "locate": _BOTH | {"fusion", "box_head"},
    "fill_mask_alone": _TEXTS | {"mlm_head"},
    "fill_mask_over_image": _BOTH | {"fusion", "fusion_mlm_head"},
    "class_head": {"class"},
    "answer": {"answer"},
    "caption": {"caption"},
}
# A method that has two forms works if one of them does.
_FORMS = {
    "fill_mask": ("fill_mask_alone", "fill_mask_over_image"),
    "classify": ("class_head", "similarity"),
}
_BASE = "configs/xfm_base.py"
# What is missing in words, and the config that trains it.
_PROJECTION = (
    "no projection into a common space of texts and images (project=False gives the encoder's own "
    "summary)"
)
_SPACE = "no common space of texts and images"
_LACKS = {
    "encode_image": ("no image encoder", _BASE),
    "encode_text": ("no text encoder, or no tokenizer beside it", _BASE),
    "image_projection": (_PROJECTION, _BASE),
    "text_projection": (_PROJECTION, _BASE),
    "similarity": (_SPACE, _BASE),
    "search": (_SPACE, _BASE),
    "match": ("no matching head", _BASE),
    "locate": ("no box head", _BASE),
    "fill_mask_alone": ("no head for masked words of a text alone", _BASE),
    "fill_mask_over_image": ("no head for masked words over an image", _BASE),
    "class_head": (
        "no fine-tuned head for classes (labels=[...] needs none, but a common space)",
        "configs/finetune/image_classification.py, glue.py or nlvr2.py",
    ),
    "answer": ("no head or decoder for answers", "configs/finetune/vqa.py"),
    "caption": ("no caption decoder", "configs/finetune/captioning.py"),
}


class NotTrained(ValueError):
    """The checkpoint lacks what a method needs."""


@dataclasses.dataclass(frozen=True)
class Abilities:
    """Which methods work.

    Attributes:
        parts: what there is of what `_NEEDS` names.
    """

    parts: frozenset[str]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the methods that work."""
        return tuple(name for name in METHODS if self.has(name))

    @property
    def lacks(self) -> dict[str, str]:
        """{method that does not work: what is missing, and the config that trains it}."""
        forms = {name: _FORMS.get(name, (name,))[0] for name in METHODS if not self.has(name)}
        told = {name: _LACKS[form] for name, form in forms.items()}
        return {name: f"{lack}; {config} trains it" for name, (lack, config) in told.items()}

    def has(self, ability: str) -> bool:
        """Whether a method, or a form of one, works."""
        return any(self.parts >= {*_NEEDS[form]} for form in _FORMS.get(ability, (ability,)))

    def need(self, ability: str) -> None:
        """Raises NotTrained unless a method, or a form of one, works."""
        if self.has(ability):
            return
        lack, config = _LACKS[ability]
        can = ", ".join(self.tasks) or "nothing"
        raise NotTrained(f"this checkpoint has {lack}; it can: {can}. Train with {config}")
