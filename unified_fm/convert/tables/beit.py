"""BEiT and BEiT-2: the original file, timm's names, and Hugging Face's.

All share the blocks; they differ in how query, key and value are kept, in the final norm, and in
whether the relative-position table is one per layer or one for all (then copied to every layer).
"""

import numpy as np

from unified_fm.convert.rows import Row, Table, Unused
from unified_fm.convert.tables import bert, vit
from unified_fm.convert.tables.vit import LAYER
from unified_fm.convert.transforms import SAME, SPLIT_BIAS


def block_rows(prefix: str = "", *, scale: str = "", table: str = "") -> list[Row]:
    """Patch embedding, class token and blocks in the original spelling (also timm's and X-FM's).

    The key has no bias in these models. `scale` and `table` name the part that the layer scales
    and the relative-position tables belong to.
    """
    block, relative = prefix + "blocks.{i}", "relative_position_bias_table"
    tables = (f"{block}.attn.{relative}", f"{prefix}rel_pos_bias.{relative}")
    return [
        *vit.timm_rows(prefix),
        Row(f"{LAYER}/self_attn/query/bias", f"{block}.attn.q_bias", SPLIT_BIAS),
        Row(f"{LAYER}/self_attn/value/bias", f"{block}.attn.v_bias", SPLIT_BIAS),
        Row(f"{LAYER}/relative_position_bias", tables, SAME, table),
        Row(f"{LAYER}/scale_attn", f"{block}.gamma_1", SAME, scale),
        Row(f"{LAYER}/scale_mlp", f"{block}.gamma_2", SAME, scale),
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


_PREFIX = "[beit.]"
_RELATIVE = "relative_position_bias.relative_position_bias_table"
_TABLES = (
    *vit.both(_PREFIX, f"attention.attention.{_RELATIVE}", _RELATIVE),
    f"{_PREFIX}encoder.{_RELATIVE}",
    f"{_PREFIX}shared_position_bias.relative_position_bias_table",
)

# Hugging Face. The final norm is applied to the mean of the patches, or (without mean pooling) to
# every token. The key has no bias.
TABLE: Table = [
    *(row for row in vit.hf_rows(_PREFIX, "position") if row.ours != f"{LAYER}/self_attn/key/bias"),
    Row(f"{LAYER}/relative_position_bias", _TABLES, SAME, "relative_position_bias"),
    Unused(f"{_PREFIX}encoder.{{*}}relative_position_index"),
    Row(f"{LAYER}/scale_attn", vit.both(_PREFIX, "lambda_1"), SAME, "layer_scale"),
    Row(f"{LAYER}/scale_mlp", vit.both(_PREFIX, "lambda_2"), SAME, "layer_scale"),
    *bert.norm_rows("vision/norm", (f"{_PREFIX}pooler.layernorm", f"{_PREFIX}layernorm")),
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
