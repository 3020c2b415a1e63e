"""BERT (Hugging Face names), and the rows that every encoder of its family shares.

Layout: https://huggingface.co/google-bert/bert-base-uncased, with and without the prefix `bert.`
(a `BertModel` file has none) and with both spellings of a norm (`gamma`/`beta` in old files).
The decoder is tied to the word embedding; safetensors files leave the copy out.
"""

from unified_fm.convert.rows import Row, Table, Tied, Unused
from unified_fm.convert.transforms import LINEAR, MERGE, SAME, SPLIT, SPLIT_BIAS

_SCALE, _BIAS = "{weight|gamma}", "{bias|beta}"


def norm_rows(ours: str, foreign: str, part: str = "") -> list[Row]:
    """Scale and bias of one layer norm."""
    return [
        Row(f"{ours}/scale", f"{foreign}.{_SCALE}", SAME, part),
        Row(f"{ours}/bias", f"{foreign}.{_BIAS}", SAME, part),
    ]


def linear_rows(ours: str, foreign: str, part: str = "") -> list[Row]:
    """Kernel and bias of one dense layer."""
    return [
        Row(f"{ours}/kernel", f"{foreign}.weight", LINEAR, part),
        Row(f"{ours}/bias", f"{foreign}.bias", SAME, part),
    ]


def attention_rows(ours: str, foreign: str, norm: str) -> list[Row]:
    """One attention block: query, key, value, output and the norm after the residual."""
    rows = []
    for name in ("query", "key", "value"):
        rows += [
            Row(f"{ours}/{name}/kernel", f"{foreign}.self.{name}.weight", SPLIT),
            Row(f"{ours}/{name}/bias", f"{foreign}.self.{name}.bias", SPLIT_BIAS),
        ]
    return [
        *rows,
        Row(f"{ours}/out/kernel", f"{foreign}.output.dense.weight", MERGE),
        Row(f"{ours}/out/bias", f"{foreign}.output.dense.bias"),
        *norm_rows(norm, f"{foreign}.output.LayerNorm"),
    ]


def layer_rows(ours: str, foreign: str, *, cross: bool = False) -> list[Row]:
    """All layers of one stack; `ours` is `text`, `foreign` the prefix before `encoder.layer`."""
    ours, foreign = ours + "/layer_{i}", foreign + "encoder.layer.{i}"
    rows = attention_rows(f"{ours}/self_attn", f"{foreign}.attention", f"{ours}/self_norm")
    if cross:
        rows += attention_rows(
            f"{ours}/cross_attn", f"{foreign}.crossattention", f"{ours}/cross_norm"
        )
    return [
        *rows,
        *linear_rows(f"{ours}/mlp_in", f"{foreign}.intermediate.dense"),
        *linear_rows(f"{ours}/mlp_out", f"{foreign}.output.dense"),
        *norm_rows(f"{ours}/mlp_norm", f"{foreign}.output.LayerNorm"),
    ]


def embedding_rows(foreign: str) -> list[Row | Unused]:
    """Word, position and token-type tables and their norm; `foreign` is the prefix before them."""
    return [
        *(
            Row(f"text_embed/{ours}/embedding", f"{foreign}embeddings.{theirs}_embeddings.weight")
            for ours, theirs in (
                ("word", "word"),
                ("position", "position"),
                ("token_type", "token_type"),
            )
        ),
        *norm_rows("text_embed/norm", f"{foreign}embeddings.LayerNorm"),
    ]


TABLE: Table = [
    *embedding_rows("[bert.]"),
    Unused("[bert.]embeddings.position_ids"),
    *layer_rows("text", "[bert.]"),
    *linear_rows("pooler", "[bert.]pooler.dense", "pooler"),
    *linear_rows("mlm_head/dense", "cls.predictions.transform.dense", "mlm_head"),
    *norm_rows("mlm_head/norm", "cls.predictions.transform.LayerNorm", "mlm_head"),
    Row("mlm_head/bias", "cls.predictions.bias", SAME, "mlm_head"),
    Tied("text_embed/word/embedding", "cls.predictions.decoder.weight", written=False),
    Tied("mlm_head/bias", "cls.predictions.decoder.bias", written=False),
    *linear_rows("next_sentence_head", "cls.seq_relationship", "next_sentence_head"),
]
