"""How many floating-point operations a step needs, by arithmetic: no device, nothing compiled.

Counted are the matrix products of the encoders and of the vocabulary and class heads, a multiply
and an add as two, the backward pass as twice the forward one. Not counted are element-wise work,
norms, softmax, the optimizer and the small heads (together below 1 %), and teachers.

    counted = flops.of_step(settings)      # {stream: Flops}, of one step
    flops.total(counted).necessary         # of all streams

Three counts of the same step:

    official    the published program's: texts padded, keys and values of an image projected again
                in every pass of the fusion encoder
    shared      keys and values projected once for each image
    necessary   as shared, and neither padded tokens nor unused slots of masked words
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from unified_fm.config import chosen
from unified_fm.config.settings import Settings, Stream
from unified_fm.data import batching, streams
from unified_fm.data import tokenizer as tokenizers
from unified_fm.models import xfm
from unified_fm.models.config import EncoderConfig
from unified_fm.models.views import passes

# Mean share of `max_len` that the published data fill: 13.5 of 30 tokens of a caption, 9 of 30 of
# a region. Texts alone are cut from running prose and fill theirs.
FILLED = {"image_text": 13.5 / 30, "regions": 9 / 30}
# Texts that an objective sends through the fusion encoder, per row.
_FUSED = {"itm": 3, "imlm": 1, "bbox": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flops:
    """The three counts; of a step unless said otherwise."""

    official: float = 0.0
    shared: float = 0.0
    necessary: float = 0.0

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(**{name: value + vars(other)[name] for name, value in vars(self).items()})

    def __truediv__(self, number: float) -> "Flops":
        return Flops(**{name: value / number for name, value in vars(self).items()})


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Lengths:
    """What the texts of a stream really are, row by row.

    Attributes:
        tokens: [R], real tokens.
        words: [R], masked words.
    """

    tokens: np.ndarray
    words: np.ndarray


def of_step(
    settings: Settings,
    lengths: Mapping[str, Lengths] | None = None,
    shapes: Mapping[str, Any] | None = None,
) -> dict[str, Flops]:
    """The FLOPs of one step, {stream: counts}.

    Args:
        settings: of the run. Neither its data nor its tokenizer need be there.
        lengths: {stream: what its texts are}; by default those of `typical`.
        shapes: {stream: {array: with a `shape`}} of the global batches, where they are known.
    """
    shapes = shapes_of(settings) if shapes is None else shapes
    lengths = {**typical(settings, shapes), **(lengths or {})}
    sizes = _Sizes.of(settings)
    counted = {
        name: _stream(sizes, stream, shapes[name], lengths.get(name))
        for name, stream in settings.streams.items()
    }
    return {name: Flops(**{k: float(v) for k, v in vars(f).items()}) for name, f in counted.items()}


def total(counted: Mapping[str, Flops]) -> Flops:
    """Those of all streams together."""
    return sum(counted.values(), Flops())


def typical(settings: Settings, shapes: Mapping[str, Any] | None = None) -> dict[str, Lengths]:
    """{stream with texts: how long they are where the data are as published}; see `FILLED`."""
    shapes = shapes_of(settings) if shapes is None else shapes
    found = {}
    for name, stream in settings.streams.items():
        if "text" not in shapes[name]:
            continue
        rows, length = shapes[name]["text"].shape
        tokens = np.full(rows, length * FILLED.get(stream.pipeline, 1.0))
        slots = _slots(shapes[name])
        rate = min(options(name, stream).get("mask_rate", slots / length), 1.0)
        words = np.minimum(slots, np.maximum(1, tokens * rate)) if slots else 0 * tokens
        found[name] = Lengths(tokens=tokens, words=words)
    return found


def of_batch(batch: Mapping[str, Any]) -> Lengths:
    """How long the texts of a batch are: of its `text_mask bool[R L]` and `masked_ids i32[R K]`."""
    tokens = np.asarray(batch["text_mask"]).sum(-1)
    words = (np.asarray(batch["masked_ids"]) >= 0).sum(-1) if "masked_ids" in batch else 0 * tokens
    return Lengths(tokens=tokens, words=words)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sizes:
    """The numbers of a model that count; `text`, `vision` and `fusion` as far as it has them."""

    text: EncoderConfig | None
    vision: EncoderConfig | None
    fusion: EncoderConfig | None
    patch_size: int
    vocabulary: int
    classes: int

    @classmethod
    def of(cls, settings: Settings) -> "_Sizes":
        model = chosen.model(settings.model)
        towers = model.towers()
        fusion = model.stack(model.fusion, xfm.FUSION) if isinstance(model, xfm.Model) else None
        return cls(
            text=towers.get("text"),
            vision=towers.get("vision"),
            fusion=fusion,
            patch_size=vars(model).get("patch_size", 1),
            vocabulary=model.vocab_size or 0,
            classes=model.classes or 0,
        )


def _stream(
    sizes: _Sizes, stream: Stream, shapes: Mapping[str, Any], lengths: Lengths | None
) -> Flops:
    objectives = {key: chosen.objective(key, value)[0] for key, value in stream.objectives.items()}
    names = [_plugin(key, value) for key, value in stream.objectives.items()]
    lessons = {each.key for fn in objectives.values() for each in fn.lessons.values()}
    reads: dict[str, bool] = {}
    for objective in objectives.values():
        for view, flows in objective.reads.items():
            reads[view] = reads.get(view, False) or flows

    counted = Flops()
    for view, flows in passes(reads).items():
        times = 3 if flows else 1
        if view.startswith("text") and sizes.text is not None and lengths is not None:
            padded = np.full(len(lengths.tokens), shapes["text"].shape[1])
            counted += _same(times * _encoder(sizes.text, padded).sum())
            saved = _encoder(sizes.text, padded) - _encoder(sizes.text, lengths.tokens)
            counted += Flops(necessary=-times * saved.sum())
        if view.startswith("image") and sizes.vision is not None:
            counted += _same(times * shapes["image"].shape[0] * _image(sizes, shapes))
    if lengths is not None:
        counted += _fusion(sizes, sum(_FUSED.get(name, 0) for name in names), shapes, lengths)
        counted += _words(sizes, [*names, *lessons], shapes, lengths)
    if {"classify", "image"} & {*names, *lessons} and sizes.vision is not None:
        images = shapes["image"].shape[0]
        counted += _same(3 * images * 2 * sizes.vision.width * sizes.classes)
    if "pixels" in names and sizes.vision is not None:
        patches = shapes["image"].shape[0] * (_tokens(sizes, shapes) - 1)
        counted += _same(3 * patches * 2 * sizes.vision.width * 3 * sizes.patch_size**2)
    return counted


def _fusion(sizes: _Sizes, fused: int, shapes: Mapping[str, Any], lengths: Lengths) -> Flops:
    """Texts that look at images, forward and backward."""
    config = sizes.fusion
    if not fused or config is None or sizes.vision is None:
        return Flops()
    rows, length = shapes["text"].shape
    slots = _tokens(sizes, shapes)
    # Keys and values of the image tokens, two products.
    projected = config.layers * 4 * slots * sizes.vision.width * config.width

    def text(tokens):
        across = 4 * tokens * config.width**2 + 4 * tokens * slots * config.width
        return 3 * fused * np.sum(_encoder(config, tokens) + config.layers * across)

    once = 3 * shapes["image"].shape[0] * projected
    padded = text(np.full(rows, length))
    return Flops(
        official=padded + 3 * fused * rows * projected,
        shared=padded + once,
        necessary=text(lengths.tokens) + once,
    )


def _words(
    sizes: _Sizes, names: Iterable[str], shapes: Mapping[str, Any], lengths: Lengths
) -> Flops:
    """The vocabulary heads of masked words, forward and backward."""
    counted, names = Flops(), set(names)
    for name, config in (("mlm", sizes.text), ("imlm", sizes.fusion)):
        if name not in names or config is None:
            continue
        one = 3 * (2 * config.width**2 + 2 * config.width * sizes.vocabulary)
        slots = shapes["text"].shape[0] * _slots(shapes)
        counted += Flops(
            official=one * slots, shared=one * slots, necessary=one * lengths.words.sum()
        )
    return counted


def _encoder(config: EncoderConfig, tokens: Any) -> Any:
    """One pass forward of texts or images of so many tokens, each."""
    products = 8 * tokens * config.width**2 + 4 * tokens * config.width * config.mlp_width
    return config.layers * (products + 4 * tokens**2 * config.width)


def _image(sizes: _Sizes, shapes: Mapping[str, Any]) -> float:
    """One pass forward of one image, its patch embedding included."""
    assert sizes.vision is not None
    tokens = _tokens(sizes, shapes)
    embedded = 2 * (tokens - 1) * 3 * sizes.patch_size**2 * sizes.vision.width
    return _encoder(sizes.vision, tokens) + embedded


def _tokens(sizes: _Sizes, shapes: Mapping[str, Any]) -> int:
    """Tokens of an image: its patches and the class token, or slot 0 of the encoded ones."""
    return 1 + (shapes["image"].shape[1] // sizes.patch_size) ** 2


def _slots(shapes: Mapping[str, Any]) -> int:
    return shapes["masked_ids"].shape[1] if "masked_ids" in shapes else 0


def _same(count: float) -> Flops:
    return Flops(official=count, shared=count, necessary=count)


def options(name: str, stream: Stream) -> Mapping[str, Any]:
    """The options of a stream's pipeline, defaults included."""
    entry = stream.plain()
    return vars(batching.Batching(name, entry, tokenizer=tokenizers.load("bytes")).pipeline)


def _plugin(key: str, value: Any) -> str:
    return str(value.get("name", key)) if isinstance(value, Mapping) else key


def shapes_of(settings: Settings) -> Mapping[str, Any]:
    configs = {name: stream.plain() for name, stream in settings.streams.items()}
    return streams.spec(configs, tokenizer=tokenizers.load("bytes"))
