"""X2-VLM (arXiv 2211.12402), X-FM's cousin: the models with BEiT-2 and BERT, into an X-FM model.

One BERT holds both language and fusion encoder: the layers from some number on have cross-attention
(12 of 18 and 6 at base size). Its one MLM head stands behind the fusion encoder, so a language head
of ours stays fresh, like the mask token. The X-FM model needs BERT's options: `position_offset`
"bert", 2 token types, pad id 0 and an epsilon of 1e-12 in both text stacks. Names are those of the
published code, https://github.com/zengyan-97/X2-VLM; its files were not at hand.
"""

import re
from collections.abc import Mapping

import numpy as np

from unified_fm.convert.readers.lazy import Derived
from unified_fm.convert.rows import Row, Table, Tied, Unused
from unified_fm.convert.tables import beit, bert, xfm
from unified_fm.convert.transforms import SAME

_TEXT, _VISION, _HEAD = "text_encoder.[bert.]", "vision_encoder.", "text_encoder.cls.predictions"
_FUSION = "fusion."
_LAYER = re.compile(r"text_encoder\.(?:bert\.)?encoder\.layer\.(0|[1-9]\d{0,3})\.(.+)")


def canonical(foreign: Mapping[str, np.ndarray]) -> Derived:
    """The same arrays, with layers that have cross-attention as `fusion.encoder.layer.0` and on."""
    found = {name: _LAYER.fullmatch(name) for name in foreign}
    first = min((int(m[1]) for m in found.values() if m and "crossattention" in m[2]), default=None)
    makers = {}
    for name, match in found.items():
        new = name
        if match and first is not None and int(match[1]) >= first:
            new = f"{_FUSION}encoder.layer.{int(match[1]) - first}.{match[2]}"
        makers[new] = lambda name=name: foreign[name]
    return Derived(makers)


TABLE: Table = [
    Row("temperature", "temp"),
    *bert.linear_rows("image_proj", "vision_proj"),
    *bert.linear_rows("text_proj", "text_proj"),
    *xfm.pair_head("itm_head", "itm_head"),
    *xfm.pair_head("box_head", "bbox_head"),
    *beit.block_rows(_VISION),
    *bert.norm_rows("vision/norm", f"{_VISION}fc_norm"),
    Unused(_VISION + "blocks.{i}.attn.relative_position_index"),
    *bert.embedding_rows(_TEXT),
    Unused(f"{_TEXT}embeddings.position_ids"),
    *bert.layer_rows("text", _TEXT),
    *bert.layer_rows("fusion", _FUSION, cross=True),
    *bert.linear_rows("fusion_mlm_head/dense", f"{_HEAD}.transform.dense"),
    *bert.norm_rows("fusion_mlm_head/norm", f"{_HEAD}.transform.LayerNorm"),
    Row("fusion_mlm_head/bias", f"{_HEAD}.bias"),
    Row("fusion_mlm_head/embedding", f"{_HEAD}.decoder.weight", SAME),
    Tied("fusion_mlm_head/bias", f"{_HEAD}.decoder.bias"),
]
