"""BERT (Hugging Face names), and the rows that every encoder of its family shares.

Layout: https://huggingface.co/google-bert/bert-base-uncased, with and without the prefix `bert.`
(a `BertModel` file has none) and with both spellings of a norm (`gamma`/`beta` in old files).
The decoder is tied to the word embedding; safetensors files leave the copy out.
"""

from collections.abc import Callable

from unified_fm.convert.rows import Row, Table, Tied, Unused
from unified_fm.convert.transforms import LINEAR, MERGE, SAME, SPLIT, SPLIT_BIAS, Transform


def norm_rows(ours: str, foreign: str | tuple[str, ...], part: str = "") -> list[Row]:
    """Scale and bias of one layer norm; `foreign` may be a tuple of spellings."""
    return _pair(
        ours, foreign, part, ("scale", "{weight|gamma}", SAME), ("bias", "{bias|beta}", SAME)
    )


def linear_rows(
    ours: str,
    foreign: str | tuple[str, ...],
    part: str = "",
    kernel: Transform = LINEAR,
    bias: Transform = SAME,
) -> list[Row]:
    """Kernel and bias of one dense layer; `foreign` may be a tuple of spellings."""
    return _pair(ours, foreign, part, ("kernel", "weight", kernel), ("bias", "bias", bias))


def _pair(ours: str, foreign: str | tuple[str, ...], part: str, *leaves) -> list[Row]:
    spellings = (foreign,) if isinstance(foreign, str) else foreign
    return [
        Row(f"{ours}/{own}", tuple(f"{name}.{theirs}" for name in spellings), transform, part)
        for own, theirs, transform in leaves
    ]


def attention_rows(
    ours: str, foreign: Callable[[str], str | tuple[str, ...]], part: str = ""
) -> list[Row]:
    """Query, key, value and output of one attention; `foreign` gives the name of each."""
    names = ("query", "key", "value", "out")
    kinds = {name: (MERGE, SAME) if name == "out" else (SPLIT, SPLIT_BIAS) for name in names}
    return [row for n in names for row in linear_rows(f"{ours}/{n}", foreign(n), part, *kinds[n])]


def _attention(ours: str, foreign: str, norm: str) -> list[Row]:
    """One attention block with the norm after the residual."""
    return [
        *attention_rows(
            ours, lambda n: f"{foreign}.output.dense" if n == "out" else f"{foreign}.self.{n}"
        ),
        *norm_rows(norm, f"{foreign}.output.LayerNorm"),
    ]


def layer_rows(ours: str, foreign: str, *, cross: bool = False) -> list[Row]:
    """All layers of one stack; `ours` is `text`, `foreign` the prefix before `encoder.layer`."""
    ours, foreign = ours + "/layer_{i}", foreign + "encoder.layer.{i}"
    rows = _attention(f"{ours}/self_attn", f"{foreign}.attention", f"{ours}/self_norm")
    if cross:
        rows += _attention(f"{ours}/cross_attn", f"{foreign}.crossattention", f"{ours}/cross_norm")
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
            Row(f"text_embed/{name}/embedding", f"{foreign}embeddings.{name}_embeddings.weight")
            for name in ("word", "position", "token_type")
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
