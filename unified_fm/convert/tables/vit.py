"""Vision Transformers: Hugging Face's names (on disk and in memory since v5) and timm's.

Our `pre_logits` is Hugging Face's `pooler`: a dense layer and a tanh on the class token.
"""

from unified_fm.convert.rows import Row, Table
from unified_fm.convert.tables import bert
from unified_fm.convert.transforms import CONV, FUSED, FUSED_BIAS, MERGE, SAME

LAYER = "vision/layer_{i}"


def hf_rows(prefix: str, position: str = "") -> list[Row]:
    """What Hugging Face's ViT and BEiT share; `position` is the part of the positions."""
    embeddings = f"{prefix}embeddings"

    def attention(name):
        old, new = ("output.dense", "o") if name == "out" else (f"attention.{name}", name[0])
        return both(prefix, f"attention.{old}", f"attention.{new}_proj")

    return [
        *bert.linear_rows("patch_embed", f"{embeddings}.patch_embeddings.projection", kernel=CONV),
        Row("vision/class_token", f"{embeddings}.cls_token"),
        Row("vision/mask_token", f"{embeddings}.mask_token", SAME, "mask_token"),
        Row("vision/position", f"{embeddings}.position_embeddings", SAME, position),
        *bert.norm_rows(f"{LAYER}/self_norm", both(prefix, "layernorm_before")),
        *bert.attention_rows(f"{LAYER}/self_attn", attention),
        *bert.norm_rows(f"{LAYER}/mlp_norm", both(prefix, "layernorm_after")),
        *bert.linear_rows(f"{LAYER}/mlp_in", both(prefix, "intermediate.dense", "mlp.fc1")),
        *bert.linear_rows(f"{LAYER}/mlp_out", both(prefix, "output.dense", "mlp.fc2")),
        *bert.linear_rows("image_head", "classifier", "image_head"),
    ]


def both(prefix: str, old: str, new: str = "") -> tuple[str, str]:
    """A name inside a layer on disk, and what the same array is called in memory since v5."""
    return f"{prefix}encoder.layer.{{i}}.{old}", f"{prefix}layers.{{i}}.{new or old}"


def timm_rows(prefix: str = "") -> list[Row]:
    """What timm's ViT and BEiT share (and X-FM's): query, key and value are one matrix."""
    block = prefix + "blocks.{i}"
    return [
        *bert.linear_rows("patch_embed", f"{prefix}patch_embed.proj", kernel=CONV),
        Row("vision/class_token", f"{prefix}cls_token"),
        *bert.norm_rows(f"{LAYER}/self_norm", f"{block}.norm1"),
        Row(_fused("kernel"), f"{block}.attn.qkv.weight", FUSED),
        *bert.linear_rows(f"{LAYER}/self_attn/out", f"{block}.attn.proj", kernel=MERGE),
        *bert.norm_rows(f"{LAYER}/mlp_norm", f"{block}.norm2"),
        *bert.linear_rows(f"{LAYER}/mlp_in", f"{block}.mlp.fc1"),
        *bert.linear_rows(f"{LAYER}/mlp_out", f"{block}.mlp.fc2"),
    ]


def _fused(leaf: str) -> tuple[str, ...]:
    return tuple(f"{LAYER}/self_attn/{name}/{leaf}" for name in ("query", "key", "value"))


TABLE: Table = [
    *hf_rows("[vit.]"),
    *bert.norm_rows("vision/norm", "[vit.]layernorm"),
    *bert.linear_rows("pre_logits", "[vit.]pooler.dense", "pre_logits"),
]

TIMM: Table = [
    *timm_rows(),
    Row(_fused("bias"), "blocks.{i}.attn.qkv.bias", FUSED_BIAS),
    Row("vision/position", "pos_embed"),
    *bert.norm_rows("vision/norm", "norm"),
    *bert.linear_rows("pre_logits", "pre_logits.fc", "pre_logits"),
    *bert.linear_rows("image_head", "head", "image_head"),
]
