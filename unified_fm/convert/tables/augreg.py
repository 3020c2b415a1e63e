"""Google's `.npz` weights of ViT and AugReg, and big_vision's, in one table.

The two generations number the same blocks differently; big_vision keeps positions of patches only
(the class token's is folded into the token), may stack all layers in one array, and may put a
prefix before all names (UFM section 6.5). `canonical` undoes the last three.
"""

import re
from collections.abc import Mapping

import numpy as np

from unified_fm.convert.errors import ConversionError
from unified_fm.convert.readers.lazy import Derived
from unified_fm.convert.rows import Row, Table
from unified_fm.convert.transforms import SAME

_PREFIXES = ("params/img/", "params/", "opt/target/img/", "opt/target/", "img/")
_OLD_POSITION = "Transformer/posembed_input/pos_embedding"
_NEW_POSITION = "pos_embedding"
_STACKED = re.compile(r"Transformer/encoderblock/(.+)")


def _pair(ours: str, foreign: str, part: str = "", first: str = "kernel") -> list[Row]:
    """A projection, or a norm with `first` "scale": the arrays are laid out as ours."""
    return [Row(f"{ours}/{n}", f"{foreign}/{n}", SAME, part) for n in (first, "bias")]


def _norm(ours: str, foreign: str) -> list[Row]:
    return _pair(ours, foreign, first="scale")


_LAYER, _BLOCK = "vision/layer_{i}", "Transformer/encoderblock_{i}"
_ATTENTION = _BLOCK + "/MultiHeadDotProductAttention_{1|0}"
_MLP = _BLOCK + "/MlpBlock_{3|0}"

TABLE: Table = [
    *_pair("patch_embed", "embedding"),
    Row("vision/class_token", "cls", SAME, "class_token"),
    Row("vision/position", _OLD_POSITION),
    *_norm(f"{_LAYER}/self_norm", f"{_BLOCK}/LayerNorm_0"),
    *(
        row
        for name in ("query", "key", "value", "out")
        for row in _pair(f"{_LAYER}/self_attn/{name}", f"{_ATTENTION}/{name}")
    ),
    *_norm(f"{_LAYER}/mlp_norm", _BLOCK + "/LayerNorm_{2|1}"),
    *_pair(f"{_LAYER}/mlp_in", f"{_MLP}/Dense_0"),
    *_pair(f"{_LAYER}/mlp_out", f"{_MLP}/Dense_1"),
    *_norm("vision/norm", "Transformer/encoder_norm"),
    *_pair("pre_logits", "pre_logits", "pre_logits"),
    *_pair("image_head", "head", "image_head"),
]


def canonical(foreign: Mapping[str, np.ndarray]) -> Derived:
    """The same weights in unprefixed names of single layers, with a position for the class slot."""
    prefix = next((p for p in _PREFIXES if any(n.startswith(p) for n in foreign)), "")
    makers, layers = {}, None
    for full in foreign:
        name = full.removeprefix(prefix)
        stacked = _STACKED.fullmatch(name)
        if not stacked:
            makers[name] = lambda full=full: np.asarray(foreign[full])
            continue
        layers = _layers(full, np.shape(foreign[full]), layers)
        for layer in range(layers):
            makers[f"Transformer/encoderblock_{layer}/{stacked[1]}"] = (
                lambda full=full, layer=layer: foreign[full][layer]
            )
    if _NEW_POSITION in makers:
        position, has_class = makers.pop(_NEW_POSITION), "cls" in makers
        makers[_OLD_POSITION] = lambda: _with_class_slot(position()) if has_class else position()
    return Derived(makers)


def _layers(name: str, shape: tuple[int, ...], others: int | None) -> int:
    """Number of layers in a stacked array: that of the others, and no more than have numbers."""
    if not shape or not 1 <= shape[0] <= 9999 or (others or shape[0]) != shape[0]:
        like = f" like the others, of {others}" if others else ""
        raise ConversionError(f"{name}: expected an array of stacked layers{like}; found {shape}")
    return shape[0]


def _with_class_slot(position: np.ndarray) -> np.ndarray:
    if position.ndim != 3:
        raise ConversionError(f"{_NEW_POSITION}: expected 3 dimensions, found {position.shape}")
    return np.pad(position, ((0, 0), (1, 0), (0, 0)))


def big_vision(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Exported arrays in big_vision's generation: the class slot's position goes into the token."""
    out = {}
    for name, array in arrays.items():
        name = name.replace("MultiHeadDotProductAttention_1", "MultiHeadDotProductAttention_0")
        name = name.replace("LayerNorm_2", "LayerNorm_1").replace("MlpBlock_3", "MlpBlock_0")
        out[name] = array
    position = out.pop(_OLD_POSITION)
    if "cls" in out:
        out["cls"], position = out["cls"] + position[:, :1], position[:, 1:]
    return out | {_NEW_POSITION: position}
