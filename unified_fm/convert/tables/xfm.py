"""X-FM: the key layout of the published PyTorch checkpoints (X-FM sections 6.2 and 6.3).

Accepted: the pre-training file, the old spelling `visual_encoder.`, and fine-tuned files whose text
part has lost its prefix `roberta.` (what they lack or add is a matter of the allow-list).
Nothing of ours uses `lm_cap_head` of both encoders, the fusion encoder's position and type
embeddings and embedding norm, and the integer buffers: reported when importing, filled when
exporting, so that the published code loads the file strictly.
"""

import numpy as np

from unified_fm.convert.rows import Row, Table, Tied, Unused
from unified_fm.convert.tables import beit, bert, roberta
from unified_fm.convert.transforms import SAME

_TEXT, _FUSION = "text_encoder.[roberta.]", "fusion_encoder.roberta."
_WORD = "fusion_mlm_head/embedding"


def _position_ids(table: np.ndarray) -> np.ndarray:
    return np.arange(len(table), dtype=np.int64)[None]


def pair_head(ours: str, foreign: str) -> list[Row]:
    """Linear, norm, GELU, Linear: the matching and the box head."""
    return [
        *bert.linear_rows(f"{ours}/dense", f"{foreign}.0"),
        *bert.norm_rows(f"{ours}/norm", f"{foreign}.1"),
        *bert.linear_rows(f"{ours}/out", f"{foreign}.3"),
    ]


def _caption_head(encoder: str) -> list[Unused]:
    """The untied head for captioning: zeros, with a norm of ones, like the live head beside it."""
    names = ("dense.weight", "dense.bias", "layer_norm.bias", "bias")
    decoder = ("decoder.weight", "decoder.bias")
    head, live = f"{encoder}.lm_cap_head", f"{encoder}.lm_head"
    return [
        *(Unused(f"{head}.{name}", f"{live}.{name}", np.zeros_like) for name in names + decoder),
        Unused(f"{head}.layer_norm.weight", f"{live}.layer_norm.weight", np.ones_like),
    ]


def _fusion_embeddings() -> list[Unused]:
    """Position and type embeddings and their norm, which never receive a gradient."""
    text, fusion = f"{_TEXT}embeddings", f"{_FUSION}embeddings"
    zeros = ("position_embeddings.weight", "token_type_embeddings.weight", "LayerNorm.bias")
    return [
        *(Unused(f"{fusion}.{name}", f"{text}.{name}", np.zeros_like) for name in zeros),
        Unused(f"{fusion}.LayerNorm.weight", f"{text}.LayerNorm.weight", np.ones_like),
        Unused(f"{fusion}.position_ids", f"{text}.position_embeddings.weight", _position_ids),
    ]


_VISION = "{vision|visual}_encoder."

TABLE: Table = [
    Row("temperature", "temp"),
    *bert.linear_rows("image_proj", "vision_proj"),
    *bert.linear_rows("text_proj", "text_proj"),
    *pair_head("itm_head", "itm_head"),
    *pair_head("box_head", "bbox_head"),
    # Vision encoder.
    *beit.block_rows(_VISION),
    Row("vision/mask_token", f"{_VISION}mask_token"),
    *bert.norm_rows("vision/norm", f"{_VISION}fc_norm"),
    Unused(
        _VISION + "blocks.{i}.attn.relative_position_index",
        _VISION + "blocks.{i}.attn.relative_position_bias_table",
        beit.relative_position_index,
    ),
    # Language encoder.
    *bert.embedding_rows(_TEXT),
    Unused(
        f"{_TEXT}embeddings.position_ids",
        f"{_TEXT}embeddings.position_embeddings.weight",
        _position_ids,
    ),
    *bert.layer_rows("text", _TEXT),
    *roberta.head_rows("mlm_head", "text_encoder.lm_head"),
    Tied("text_embed/word/embedding", "text_encoder.lm_head.decoder.weight"),
    Tied("mlm_head/bias", "text_encoder.lm_head.decoder.bias"),
    *_caption_head("text_encoder"),
    # Fusion encoder: of its embeddings only the word table lives, as its decoder.
    Row(_WORD, f"{_FUSION}embeddings.word_embeddings.weight", SAME),
    *_fusion_embeddings(),
    *bert.layer_rows("fusion", _FUSION, cross=True),
    *roberta.head_rows("fusion_mlm_head", "fusion_encoder.lm_head"),
    Tied(_WORD, "fusion_encoder.lm_head.decoder.weight"),
    Tied("fusion_mlm_head/bias", "fusion_encoder.lm_head.decoder.bias"),
    *_caption_head("fusion_encoder"),
]
