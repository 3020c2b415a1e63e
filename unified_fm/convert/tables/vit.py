"""Vision Transformers: Hugging Face's names (on disk and in memory since v5) and timm's.

Our `pre_logits` is Hugging Face's `pooler`: a dense layer and a tanh on the class token.
"""

from unified_fm.convert.rows import Row, Table
from unified_fm.convert.tables import bert
from unified_fm.convert.transforms import (
    CONV,
    FUSED,
    FUSED_BIAS,
    LINEAR,
    MERGE,
    SAME,
    SPLIT,
    SPLIT_BIAS,
)

_LAYER = "vision/layer_{i}"


def _both(old: str, new: str) -> tuple[str, str]:
    """A name inside a layer on disk, and what the same array is called in memory since v5."""
    return f"[vit.]encoder.layer.{{i}}.{old}", f"[vit.]layers.{{i}}.{new}"


def _linear(ours: str, old: str, new: str, kernel=LINEAR, bias=SAME) -> list[Row]:
    return [
        Row(f"{_LAYER}/{ours}/kernel", _both(f"{old}.weight", f"{new}.weight"), kernel),
        Row(f"{_LAYER}/{ours}/bias", _both(f"{old}.bias", f"{new}.bias"), bias),
    ]


def _norm(ours: str, name: str) -> list[Row]:
    return [
        Row(f"{_LAYER}/{ours}/scale", _both(f"{name}.weight", f"{name}.weight")),
        Row(f"{_LAYER}/{ours}/bias", _both(f"{name}.bias", f"{name}.bias")),
    ]


TABLE: Table = [
    Row("patch_embed/kernel", "[vit.]embeddings.patch_embeddings.projection.weight", CONV),
    Row("patch_embed/bias", "[vit.]embeddings.patch_embeddings.projection.bias"),
    Row("vision/class_token", "[vit.]embeddings.cls_token"),
    Row("vision/mask_token", "[vit.]embeddings.mask_token", SAME, "mask_token"),
    Row("vision/position", "[vit.]embeddings.position_embeddings"),
    *_norm("self_norm", "layernorm_before"),
    *_linear("self_attn/query", "attention.attention.query", "attention.q_proj", SPLIT, SPLIT_BIAS),
    *_linear("self_attn/key", "attention.attention.key", "attention.k_proj", SPLIT, SPLIT_BIAS),
    *_linear("self_attn/value", "attention.attention.value", "attention.v_proj", SPLIT, SPLIT_BIAS),
    *_linear("self_attn/out", "attention.output.dense", "attention.o_proj", MERGE),
    *_norm("mlp_norm", "layernorm_after"),
    *_linear("mlp_in", "intermediate.dense", "mlp.fc1"),
    *_linear("mlp_out", "output.dense", "mlp.fc2"),
    *bert.norm_rows("vision/norm", "[vit.]layernorm"),
    *bert.linear_rows("pre_logits", "[vit.]pooler.dense", "pre_logits"),
    *bert.linear_rows("image_head", "classifier", "image_head"),
]

_BLOCK = "blocks.{i}"
_NAMES = ("query", "key", "value")

TIMM: Table = [
    Row("patch_embed/kernel", "patch_embed.proj.weight", CONV),
    Row("patch_embed/bias", "patch_embed.proj.bias"),
    Row("vision/class_token", "cls_token"),
    Row("vision/position", "pos_embed"),
    *bert.norm_rows(f"{_LAYER}/self_norm", f"{_BLOCK}.norm1"),
    Row(
        tuple(f"{_LAYER}/self_attn/{name}/kernel" for name in _NAMES),
        f"{_BLOCK}.attn.qkv.weight",
        FUSED,
    ),
    Row(
        tuple(f"{_LAYER}/self_attn/{name}/bias" for name in _NAMES),
        f"{_BLOCK}.attn.qkv.bias",
        FUSED_BIAS,
    ),
    Row(f"{_LAYER}/self_attn/out/kernel", f"{_BLOCK}.attn.proj.weight", MERGE),
    Row(f"{_LAYER}/self_attn/out/bias", f"{_BLOCK}.attn.proj.bias"),
    *bert.norm_rows(f"{_LAYER}/mlp_norm", f"{_BLOCK}.norm2"),
    *bert.linear_rows(f"{_LAYER}/mlp_in", f"{_BLOCK}.mlp.fc1"),
    *bert.linear_rows(f"{_LAYER}/mlp_out", f"{_BLOCK}.mlp.fc2"),
    *bert.norm_rows("vision/norm", "norm"),
    *bert.linear_rows("pre_logits", "pre_logits.fc", "pre_logits"),
    *bert.linear_rows("image_head", "head", "image_head"),
]
