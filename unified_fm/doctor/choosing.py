"""Which stream of a config reads a source: the one named, else the one that fits its records."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from unified_fm import choices
from unified_fm.data.batching import Entry
from unified_fm.data.skips import Skip
from unified_fm.data.source import name_record, open_source
from unified_fm.data.sources.base import Source
from unified_fm.doctor.reading import Job

_LOOKED_AT = 20  # records by which the kind is told
_REGIONS = 5  # rows of an image, as many as the pipeline gives by default


def job_of(
    source: str,
    streams: Mapping[str, Mapping[str, Any]],
    *,
    seed: int = 0,
    tokenizer: str = "bytes",
    stream: str = "",
    limit: int = 0,
) -> Job:
    """The job of reading a source as one of the streams of a config does.

    Args:
        source: as in a config.
        streams: {name: entry as `streams.stream` makes it}; empty: a stream of the pipeline that
            fits, with its defaults.
        seed, tokenizer: of the config.
        stream: the name of one; "": of those that read this source, or of all, the one whose
            pipeline fits the records.
        limit: records to read; 0: all.

    Raises:
        ValueError, OSError: the source cannot be opened, there is no such stream, or none fits.
    """
    if stream and stream not in streams:
        raise ValueError(f"no stream {stream!r}; {choices.possible(stream, streams)}")
    guessed = not stream
    if guessed:
        kind = kind_of(open_source(source), source)
        if not streams:
            stream, streams = "data", {"data": _plain(kind)}
        else:
            stream = _fitting(source, streams, kind)
    entry = Entry.of(stream, streams[stream])
    # Weights are of the config's own sources; by themselves records are the same without.
    weights = entry.weights if entry.source == source else None
    entry = dataclasses.replace(entry, source=source, weights=weights)
    return Job(
        stream=stream, entry=entry, seed=seed, tokenizer=tokenizer, limit=limit, guessed=guessed
    )


def kind_of(source: Source, spec: str) -> str:
    """The pipeline that the first records are for: "regions", "image_text", ...

    Args:
        source: opened.
        spec: its string, for the message.

    Raises:
        ValueError: none of them has a field of which a pipeline of the library makes anything;
            with the fields there are, and why records cannot be read.
    """
    fields: set[str] = set()
    skips: dict[str, list[tuple[int, Skip]]] = {}
    looked_at = min(_LOOKED_AT, len(source))
    for index in range(looked_at):
        try:
            example = source[index]
        except Skip as skip:
            skips.setdefault(skip.reason, []).append((index, skip))
            continue
        fields |= _present(example)
    for pipeline, needed in (
        ("regions", {"image", "regions"}),
        ("image_text", {"image", "text"}),
        ("classify", {"image", "label"}),
        ("image", {"image"}),
        ("text", {"text"}),
    ):
        if needed <= fields:
            return pipeline
    reasons = "".join(
        f"\n  {len(found)} {reason}; the first: {name_record(source, spec, found[0][0])}:"
        f" {found[0][1].detail}"
        for reason, found in skips.items()
    )
    if not fields:
        raise ValueError(f"of the first {looked_at} records of {spec} none can be used{reasons}")
    raise ValueError(
        f"the first {looked_at} records have neither `image` nor `text`; found:"
        f" {', '.join(sorted(fields))}. Name the stream that reads them, with --config=..."
        f" --stream=...{reasons}"
    )


def _present(example: Mapping[str, Any]) -> set[str]:
    """The fields that hold something."""
    return {
        name
        for name, value in example.items()
        if value is not None and not (isinstance(value, str | bytes | list) and not len(value))
    }


def _plain(pipeline: str) -> dict[str, Any]:
    if pipeline == "regions":
        return {"pipeline": pipeline, "source": "", "batch_size": _REGIONS, "images": 1}
    return {"pipeline": pipeline, "source": "", "batch_size": 1}


def _fitting(source: str, streams: Mapping[str, Mapping[str, Any]], kind: str) -> str:
    own = {name: entry for name, entry in streams.items() if entry["source"] == source} or streams
    # Whoever has captioned regions may train on the captions alone, and so on.
    for pipeline in (kind, *_ALSO[kind]):
        for name, entry in own.items():
            if entry["pipeline"] == pipeline:
                return name
    if len(own) == 1:
        return next(iter(own))
    found = ", ".join(f"{name} ({entry['pipeline']})" for name, entry in own.items())
    raise ValueError(
        f"{source} has records for the pipeline {kind!r}, and no stream of the config has it:"
        f" {found}. Name one with --stream=..."
    )


_ALSO = {
    "regions": ("image_text", "image"),
    "image_text": ("image", "text"),
    "classify": ("image",),
    "image": (),
    "text": ("classify",),
}
