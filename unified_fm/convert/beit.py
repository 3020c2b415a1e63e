"""BEiT and BEiT-2: the original file, timm's names, and Hugging Face's.

All share the blocks; they differ in how query, key and value are kept, in the final norm, and in
whether the relative-position table is one per layer or one for all (then copied to every layer).
"""

import numpy as np

from unified_fm.convert import bert
from unified_fm.convert.rows import Row
from unified_fm.convert.transforms import CONV, FUSED, MERGE, SPLIT_BIAS

_LAYER = "vision/layer_{i}"


def block_rows(prefix: str = "") -> list[Row]:
    """Patch embedding, class token and blocks in the original spelling (also timm's and X-FM's).

    The key has no bias in these models; query, key and value are one matrix.
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
        ),
        Row(f"{_LAYER}/self_attn/out/kernel", f"{block}.attn.proj.weight", MERGE),
        Row(f"{_LAYER}/self_attn/out/bias", f"{block}.attn.proj.bias"),
        Row(f"{_LAYER}/scale_attn", f"{block}.gamma_1"),
        *bert.norm_rows(f"{_LAYER}/mlp_norm", f"{block}.norm2"),
        *bert.linear_rows(f"{_LAYER}/mlp_in", f"{block}.mlp.fc1"),
        *bert.linear_rows(f"{_LAYER}/mlp_out", f"{block}.mlp.fc2"),
        Row(f"{_LAYER}/scale_mlp", f"{block}.gamma_2"),
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
