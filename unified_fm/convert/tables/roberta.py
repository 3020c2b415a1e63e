"""RoBERTa (Hugging Face names): the layers of BERT, another head, no sentence-pair parts.

With and without the prefix `roberta.`; the decoder is tied to the word embedding.
"""

from unified_fm.convert.rows import Row, Table, Tied, Unused
from unified_fm.convert.tables import bert
from unified_fm.convert.transforms import SAME


def head_rows(ours: str, foreign: str, part: str = "") -> list[Row]:
    """Masked-language-modelling head without its decoder matrix."""
    return [
        *bert.linear_rows(f"{ours}/dense", f"{foreign}.dense", part),
        *bert.norm_rows(f"{ours}/norm", f"{foreign}.layer_norm", part),
        Row(f"{ours}/bias", f"{foreign}.bias", SAME, part),
    ]


TABLE: Table = [
    *bert.embedding_rows("[roberta.]"),
    Unused("[roberta.]embeddings.position_ids"),
    *bert.layer_rows("text", "[roberta.]"),
    # The pooler of the published file was never trained: X-FM section 6.5.
    Unused("[roberta.]pooler.dense.{weight|bias}"),
    *head_rows("mlm_head", "lm_head", "mlm_head"),
    Tied("text_embed/word/embedding", "lm_head.decoder.weight", written=False),
    Tied("mlm_head/bias", "lm_head.decoder.bias", written=False),
]
