"""BEiT and BEiT-2: the original file, timm's names, and Hugging Face's.

All share the blocks; they differ in how query, key and value are kept, in the final norm, and in
whether the relative-position table is one per layer or one for all (then copied to every layer).
"""

import numpy as np

from unified_fm.convert.rows import Row, Table, Unused
from unified_fm.convert.tables import bert
from unified_fm.convert.transforms import CONV, FUSED, LINEAR, MERGE, SAME, SPLIT, SPLIT_BIAS

_LAYER = "vision/layer_{i}"


def block_rows(prefix: str = "", *, scale: str = "", table: str = "") -> list[Row]:
    """Patch embedding, class token and blocks in the original spelling (also timm's and X-FM's).

    The key has no bias in these models; query, key and value are one matrix. `scale` and `table`
    name the part that the layer scales and the relative-position tables belong to.
    """
    block = prefix + "blocks.{i}"
    kernels = tuple(f"{_LAYER}/self_attn/{name}/kernel" for name in ("query", "key", "value"))
    return [
        Row("patch_embed/kernel", f"{prefix}patch_embed.proj.weight", CONV),
        Row("patch_embed/bias", f"{prefix}patch_embed.proj.bias"),
        Row("vision/class_token", f"{prefix}cls_token"),
        *bert.norm_rows(f"{_LAYER}/self_norm", f"{block}.norm1"),
        Row(kernels, f"{block}.attn.qkv.weight", FUSED),
        Row(f"{_LAYER}/self_attn/query/bias", f"{block}.attn.q_bias", SPLIT_BIAS),
        Row(f"{_LAYER}/self_attn/value/bias", f"{block}.attn.v_bias", SPLIT_BIAS),
        Row(
            f"{_LAYER}/relative_position_bias",
            (
                f"{block}.attn.relative_position_bias_table",
                f"{prefix}rel_pos_bias.relative_position_bias_table",
            ),
            SAME,
            table,
        ),
        Row(f"{_LAYER}/self_attn/out/kernel", f"{block}.attn.proj.weight", MERGE),
        Row(f"{_LAYER}/self_attn/out/bias", f"{block}.attn.proj.bias"),
        Row(f"{_LAYER}/scale_attn", f"{block}.gamma_1", SAME, scale),
        *bert.norm_rows(f"{_LAYER}/mlp_norm", f"{block}.norm2"),
        *bert.linear_rows(f"{_LAYER}/mlp_in", f"{block}.mlp.fc1"),
        *bert.linear_rows(f"{_LAYER}/mlp_out", f"{block}.mlp.fc2"),
        Row(f"{_LAYER}/scale_mlp", f"{block}.gamma_2", SAME, scale),
    ]


def relative_position_index(table: np.ndarray) -> np.ndarray:
    """The table row of every (query, key) pair, i64[1+N 1+N]; the class token is slot 0.

    For patches i, j of a g x g grid: (r_i - r_j + g-1)(2g-1) + (c_i - c_j + g-1); the last three
    rows are class to any, any to class and class to class (X-FM section 1.3).
    """
    side = round((len(table) - 3) ** 0.5)  # 2g - 1
    grid = (side + 1) // 2
    row, column = np.divmod(np.arange(grid * grid), grid)
    patches = (row[:, None] - row + grid - 1) * side + column[:, None] - column + grid - 1
    index = np.pad(patches, ((1, 0), (1, 0)))
    index[0, :], index[:, 0], index[0, 0] = side * side, side * side + 1, side * side + 2
    return index.astype(np.int64)


def _both(old: str, new: str) -> tuple[str, str]:
    """A name inside a layer on disk, and what the same array is called in memory since v5."""
    return f"[beit.]encoder.layer.{{i}}.{old}", f"[beit.]layers.{{i}}.{new}"


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


_RELATIVE = "relative_position_bias.relative_position_bias_table"
_QUERY, _KEY, _VALUE = (f"attention.attention.{name}" for name in ("query", "key", "value"))

# Hugging Face. The final norm is applied to the mean of the patches, or (without mean pooling) to
# every token.
TABLE: Table = [
    Row("patch_embed/kernel", "[beit.]embeddings.patch_embeddings.projection.weight", CONV),
    Row("patch_embed/bias", "[beit.]embeddings.patch_embeddings.projection.bias"),
    Row("vision/class_token", "[beit.]embeddings.cls_token"),
    Row("vision/mask_token", "[beit.]embeddings.mask_token", SAME, "mask_token"),
    Row("vision/position", "[beit.]embeddings.position_embeddings", SAME, "position"),
    *_norm("self_norm", "layernorm_before"),
    *_linear("self_attn/query", _QUERY, "attention.q_proj", SPLIT, SPLIT_BIAS),
    *_linear("self_attn/key", _KEY, "attention.k_proj", SPLIT)[:1],
    *_linear("self_attn/value", _VALUE, "attention.v_proj", SPLIT, SPLIT_BIAS),
    Row(
        f"{_LAYER}/relative_position_bias",
        (
            *_both(f"attention.attention.{_RELATIVE}", _RELATIVE),
            f"[beit.]encoder.{_RELATIVE}",
            "[beit.]shared_position_bias.relative_position_bias_table",
        ),
        SAME,
        "relative_position_bias",
    ),
    Unused("[beit.]encoder.{*}relative_position_index"),
    *_linear("self_attn/out", "attention.output.dense", "attention.o_proj", MERGE),
    Row(f"{_LAYER}/scale_attn", _both("lambda_1", "lambda_1"), SAME, "layer_scale"),
    *_norm("mlp_norm", "layernorm_after"),
    *_linear("mlp_in", "intermediate.dense", "mlp.fc1"),
    *_linear("mlp_out", "output.dense", "mlp.fc2"),
    Row(f"{_LAYER}/scale_mlp", _both("lambda_2", "lambda_2"), SAME, "layer_scale"),
    Row("vision/norm/scale", ("[beit.]pooler.layernorm.weight", "[beit.]layernorm.weight")),
    Row("vision/norm/bias", ("[beit.]pooler.layernorm.bias", "[beit.]layernorm.bias")),
    *bert.linear_rows("image_head", "classifier", "image_head"),
]

# The original files and timm's. What X-FM drops when it starts from them (section 6.6) is unused:
# the pre-training norm, the token head, the shallow layers behind a class token.
ORIGINAL: Table = [
    *block_rows(scale="layer_scale", table="relative_position_bias"),
    Row("vision/mask_token", "mask_token", SAME, "mask_token"),
    Row("vision/position", "pos_embed", SAME, "position"),
    *bert.norm_rows("vision/norm", "fc_norm", "norm"),
    *bert.linear_rows("image_head", "head", "image_head"),
    Unused("norm.{weight|bias}"),
    Unused("lm_head.{weight|bias}"),
    Unused("cls_pt_layers.{*}"),
    Unused("rel_pos_bias.relative_position_index"),
    Unused("blocks.{i}.attn.relative_position_index"),
]
