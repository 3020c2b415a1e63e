"""Streams of batches: a source, a pipeline, a batch size, and what is learnt from them."""

from collections.abc import Mapping, Sequence
from typing import Any


def stream(
    pipeline: str,
    source: str | Sequence[str],
    batch_size: int,
    objectives: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """One entry of `config.streams`: numbers and names, nothing is opened.

    Args:
        pipeline: a name in `data/pipelines`, or a dotted module of the user's.
        source: a source string ("jsonl:FILE", "array_record:STEM", ...), several joined by "+", or
            a list of them.
        batch_size: rows of the global batch (texts, images, pairs, or region rows).
        objectives: name -> weight, or name -> dict(weight=..., option=...).
        **options: of the pipeline (`max_len`, `size`, ...), and of the stream itself: `max_skip`
            (largest fraction of unusable records, 0.01), `shuffle` (True), `threads` (all cores);
            a regions stream also has `images` (images of the global batch) and `packs`.
    """
    return {
        "pipeline": pipeline,
        "source": source,
        "batch_size": batch_size,
        "objectives": dict(objectives or {}),
        **options,
    }
