"""CLIP's text and vision towers (Hugging Face names), as encoders for comparison.

They run in `models.clip`. A file may hold both towers or one, with or without its projection. Names
of ours that only CLIP has: `vision/pre_norm` (the norm before the first layer) and `logit_scale`
(the logarithm of 1 / temperature).
"""

from unified_fm.convert.rows import Row, Table, Unused
from unified_fm.convert.tables import bert
from unified_fm.convert.transforms import CONV, LINEAR, SAME, add_axes


def _tower(ours: str, foreign: str) -> list[Row]:
    part, ours, foreign = ours, ours + "/layer_{i}", foreign + "encoder.layers.{i}"
    return [
        *bert.norm_rows(f"{ours}/self_norm", f"{foreign}.layer_norm1", part),
        *bert.attention_rows(
            f"{ours}/self_attn",
            lambda n: f"{foreign}.self_attn.{'out' if n == 'out' else n[0]}_proj",
            part,
        ),
        *bert.norm_rows(f"{ours}/mlp_norm", f"{foreign}.layer_norm2", part),
        *bert.linear_rows(f"{ours}/mlp_in", f"{foreign}.mlp.fc1", part),
        *bert.linear_rows(f"{ours}/mlp_out", f"{foreign}.mlp.fc2", part),
    ]


_TEXT, _VISION = "text_model.", "vision_model."

TABLE: Table = [
    Row("text_embed/word/embedding", f"{_TEXT}embeddings.token_embedding.weight", part="text"),
    Row(
        "text_embed/position/embedding", f"{_TEXT}embeddings.position_embedding.weight", part="text"
    ),
    *_tower("text", _TEXT),
    *bert.norm_rows("text/norm", f"{_TEXT}final_layer_norm", "text"),
    Row("vision/class_token", f"{_VISION}embeddings.class_embedding", add_axes(2), "vision"),
    Row("patch_embed/kernel", f"{_VISION}embeddings.patch_embedding.weight", CONV, "vision"),
    Row("vision/position", f"{_VISION}embeddings.position_embedding.weight", add_axes(1), "vision"),
    # The published name has this misspelling.
    *bert.norm_rows("vision/pre_norm", f"{_VISION}pre_layrnorm", "vision"),
    *_tower("vision", _VISION),
    *bert.norm_rows("vision/norm", f"{_VISION}post_layernorm", "vision"),
    Row("text_proj/kernel", "text_projection.weight", LINEAR, "text_proj"),
    Row("image_proj/kernel", "visual_projection.weight", LINEAR, "image_proj"),
    Row("logit_scale", "logit_scale", SAME, "logit_scale"),
    Unused("{text|vision}_model.embeddings.position_ids"),
]
