"""Texts by their length: how much of them the model sees, and how much of a batch is padding."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from unified_fm.data import captions
from unified_fm.data.pipelines import regions
from unified_fm.data.pipelines._texts import PairOptions
from unified_fm.data.pipelines.base import Arrays, TextOptions
from unified_fm.data.tokenizer import Tokenizer
from unified_fm.doctor.findings import Findings
from unified_fm.doctor.pictures import digest

LONGEST = 50_000  # characters of a text that are tokenised; of the rest as many words are assumed
MOST_TOKENS = 4096  # longer texts are counted as so long
LOST = "\ufffd"  # stands for bytes that are no UTF-8
_ANY = 10**6  # words: no limit


def look(
    example: dict[str, Any], pipeline: Any, tokenizer: Tokenizer, index: int, found: Findings
) -> bytes:
    """Measures every text of an example, also those that the run draws another time.

    Gives a hash of them; empty where there is none, or the pipeline takes no text.
    """
    if not isinstance(pipeline, TextOptions) or not _takes_text(pipeline):
        return b""
    said, met = b"", set()
    for text, second in _of(example, pipeline):
        if not isinstance(text, str) or not text.strip():
            continue  # the pipeline counts it when it meets it
        content = digest(" ".join(text.lower().split()).encode("utf-8", "surrogatepass"))
        said += content.tobytes()
        if content.tobytes() not in met:  # a copy is what stands at another record, too
            met.add(content.tobytes())
            found.measure("text", content)
            found.measure("text_record", index)
        _lengths(text, second, pipeline, tokenizer, found)
    return said


def fill(arrays: Arrays, found: Findings) -> None:
    """Counts real tokens and padding of what the model receives of one record."""
    rows = arrays.get("rows", arrays)
    if "text_mask" in rows:
        mask = np.asarray(rows["text_mask"])
        found.add("fill", "tokens", int(mask.sum()))
        found.add("fill", "positions", int(mask.size))
        found.add("fill", "rows", 1 if mask.ndim == 1 else len(mask))


def _takes_text(pipeline: Any) -> bool:
    # `classify` has the options of both, and says which it uses.
    return vars(pipeline).get("inputs", "text") == "text"


def _of(example: dict[str, Any], pipeline: Any) -> Iterator[tuple[Any, str | None]]:
    """(text, the second one of a pair)."""
    second = example.get(pipeline.second) if isinstance(pipeline, PairOptions) else None
    fields = ("text", "question", "row")  # `row`: of a long document, see `long` of the pipelines
    if isinstance(pipeline, regions.Pipeline) and pipeline.caption == "none":
        fields = ()
    for field in fields:
        texts = example.get(field)
        for text in texts if isinstance(texts, list | tuple) else [texts]:
            yield text, second if isinstance(second, str) else None
    found = example.get("regions") if pipeline.packed else None
    for region in found if isinstance(found, list | tuple) else ():
        if isinstance(region, dict):
            texts = region.get("text")
            for text in texts if isinstance(texts, list | tuple) else [texts]:
                yield text, None


def _lengths(
    text: str, second: str | None, pipeline: TextOptions, tokenizer: Tokenizer, found: Findings
) -> None:
    """Words and tokens of a text, and what `max_words` and `max_len` leave of them."""
    whole = captions.clean(text, pipeline.clean, _ANY)
    cut = captions.clean(text, pipeline.clean, pipeline.max_words)
    words = len(whole.split())
    found.add("texts", "all")
    found.add("words", "all", words)
    found.add("text_words", str(min(words, MOST_TOKENS)))
    found.add("text_letters", str(min(len(text), 100 * MOST_TOKENS)))
    if LOST in text:
        found.add("texts", "with letters that are lost")
    if (kept := len(cut.split())) < words:
        found.add("texts", "cut by max_words")
        found.add("words", "cut by max_words", words - kept)
    head = cut[:LONGEST]
    room = len(head) + len(second or "") + 8
    encoded = tokenizer.encode(head, room, second)
    inside = encoded.ids[encoded.inside]
    found.add("pieces", "all", len(inside))
    found.add("pieces", "unknown", int((inside == tokenizer.unk_id).sum()))
    share = max(1.0, len(cut) / max(len(head), 1))  # of the text that was not tokenised
    tokens = round(encoded.length * share)
    found.add("tokens", str(min(tokens, MOST_TOKENS)))
    found.add("tokens_sum", "all", tokens)
    if tokens > pipeline.max_len:
        seen = int(tokenizer.encode(head, pipeline.max_len, second).word_start.sum())
        total = round(int(encoded.word_start.sum()) * share)
        # In words as people count them: a tokenizer's include punctuation.
        lost = round(len(cut.split()) * (1 - seen / max(total, 1)))
        found.add("texts", "cut by max_len")
        found.add("words", "cut by max_len", lost)
        found.add("tokens_sum", "cut by max_len", tokens - pipeline.max_len)
