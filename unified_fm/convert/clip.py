"""CLIP's text and vision towers (Hugging Face names), as encoders for comparison.

The towers are pre-norm, their activation is x * sigmoid(1.702 x), and the text tower is causal: a
model of ours that runs them must say so. Names of ours that only CLIP has: `vision/pre_norm` (the
norm before the first layer) and `logit_scale` (the logarithm of 1 / temperature).
"""

from unified_fm.convert import bert
from unified_fm.convert.rows import Row, Table, Unused
from unified_fm.convert.transforms import CONV, LINEAR, MERGE, SAME, SPLIT, SPLIT_BIAS, add_axes


def _tower(ours: str, foreign: str) -> list[Row]:
    ours, foreign = ours + "/layer_{i}", foreign + "encoder.layers.{i}"
    rows = []
    for name in ("query", "key", "value"):
        theirs = f"{foreign}.self_attn.{name[0]}_proj"
        rows += [
            Row(f"{ours}/self_attn/{name}/kernel", f"{theirs}.weight", SPLIT),
            Row(f"{ours}/self_attn/{name}/bias", f"{theirs}.bias", SPLIT_BIAS),
        ]
    return [
        *bert.norm_rows(f"{ours}/self_norm", f"{foreign}.layer_norm1"),
        *rows,
        Row(f"{ours}/self_attn/out/kernel", f"{foreign}.self_attn.out_proj.weight", MERGE),
        Row(f"{ours}/self_attn/out/bias", f"{foreign}.self_attn.out_proj.bias"),
        *bert.norm_rows(f"{ours}/mlp_norm", f"{foreign}.layer_norm2"),
        *bert.linear_rows(f"{ours}/mlp_in", f"{foreign}.mlp.fc1"),
        *bert.linear_rows(f"{ours}/mlp_out", f"{foreign}.mlp.fc2"),
    ]


_TEXT, _VISION = "text_model.", "vision_model."

TABLE: Table = [
    Row("text_embed/word/embedding", f"{_TEXT}embeddings.token_embedding.weight"),
    Row("text_embed/position/embedding", f"{_TEXT}embeddings.position_embedding.weight"),
    *_tower("text", _TEXT),
    *bert.norm_rows("text/norm", f"{_TEXT}final_layer_norm"),
    Row("vision/class_token", f"{_VISION}embeddings.class_embedding", add_axes(2)),
    Row("patch_embed/kernel", f"{_VISION}embeddings.patch_embedding.weight", CONV),
    Row("vision/position", f"{_VISION}embeddings.position_embedding.weight", add_axes(1)),
    # The published name has this misspelling.
    *bert.norm_rows("vision/pre_norm", f"{_VISION}pre_layrnorm"),
    *_tower("vision", _VISION),
    *bert.norm_rows("vision/norm", f"{_VISION}post_layernorm"),
    Row("text_proj/kernel", "text_projection.weight", LINEAR, "projections"),
    Row("image_proj/kernel", "visual_projection.weight", LINEAR, "projections"),
    Row("logit_scale", "logit_scale", SAME, "projections"),
    Unused("{text|vision}_model.embeddings.position_ids"),
]
