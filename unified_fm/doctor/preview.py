"""show.html: what the model will receive of some records, beside what they are on disk."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unified_fm import files
from unified_fm.data import masking
from unified_fm.data.specs import ArraySpec
from unified_fm.data.tokenizer import Tokenizer
from unified_fm.doctor import cards
from unified_fm.doctor.reading import Draw, Reading
from unified_fm.doctor.summary import joined
from unified_fm.report import report

_TEMPLATE = Path(__file__).with_name("show.html.j2")


def write(
    path: Path, reading: Reading, *, records: int, draws: int, facts: Mapping[str, Any]
) -> None:
    """Writes the page: the first records of the run's first epoch, drawn as in its first epochs.

    Args:
        path: of the page.
        reading: the job, opened.
        records: to show.
        draws: of each: the first is what the run sees in its first epoch, and so on.
        facts: for the head of the page.
    """
    rows = []
    for slot in range(min(records, reading.loader.records)):
        index = reading.loader.index_of(slot)
        drawn = [reading.draw(index, epoch) for epoch in range(draws)]
        (card,) = cards.of(reading, [reading.named(index, "")])
        shown = [_drawn(each, reading.tokenizer) for each in drawn]
        rows.append({"card": card, "draws": shown})
    page = report.render(
        _TEMPLATE,
        title=f"What the model receives of {joined(reading.job.entry.source)}",
        facts=facts,
        shapes=list(shapes(reading.loader.spec())),
        rows=rows,
        pad=reading.tokenizer.token(reading.tokenizer.pad_id),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, page)


def shapes(specs: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(array, type and shape) of a whole batch: ("text", "int32[96 30]")."""
    for name, spec in specs.items():
        if isinstance(spec, ArraySpec):
            shape = " ".join(map(str, spec.shape))
            yield prefix + name, f"{spec.dtype.name}[{shape}]"
        else:
            yield from shapes(spec, f"{prefix}{name}/")


def tokens(arrays: Mapping[str, Any], tokenizer: Tokenizer) -> list[dict[str, str]]:
    """The pieces of one row's text, each with what the model sees in its place.

    `kind` is "special", "plain" or what masking has made of it: "masked" (the mask token stands
    there), "random" (another piece), "kept" (the same, and asked for all the same).
    """
    ids = np.asarray(arrays["text"])[np.asarray(arrays["text_mask"], bool)]
    seen, asked = np.asarray(arrays.get("text_masked", arrays["text"])), {}
    if "masked_ids" in arrays:
        pairs = zip(arrays["masked_positions"], arrays["masked_ids"], strict=True)
        asked = {int(at): int(true) for at, true in pairs if true != masking.IGNORED}
    made = []
    for place, true in enumerate(ids):
        kind = "special" if tokenizer.is_special[true] else "plain"
        if place in asked:
            same = "kept" if seen[place] == true else "random"
            kind = "masked" if seen[place] == tokenizer.mask_id else same
        made.append(
            {
                "kind": kind,
                "piece": tokenizer.token(int(true)) or f"#{true}",
                "seen": tokenizer.token(int(seen[place])) or f"#{seen[place]}",
            }
        )
    return made


def _drawn(draw: Draw, tokenizer: Tokenizer) -> dict[str, Any]:
    made: dict[str, Any] = {"skipped": "", "images": [], "rows": [], "numbers": []}
    if draw.arrays is None:
        return made | {"skipped": draw.skipped}
    arrays = draw.arrays
    rows = list(_rows(arrays))
    boxes = [row["box"] for row in rows if "box" in row and not row.get("is_image", False)]
    pictures = arrays.get("images", [arrays["image"]] if "image" in arrays else [])
    for image in pictures:
        made["images"].append(
            {
                "image": report.picture(image),
                "hidden": _cells(arrays["patch_mask"]) if "patch_mask" in arrays else [],
                "boxes": [_percent(box) for box in boxes],
            }
        )
    for row in rows:
        if "text_mask" in row:
            said = tokens(row, tokenizer)
            made["rows"].append(
                {
                    "tokens": said,
                    "padding": len(row["text_mask"]) - len(said),
                    "cells": _cells(row["region_mask"]) if "region_mask" in row else [],
                    "box": _said(row["box"]) if "box" in row else "",
                }
            )
    for name, value in arrays.items():
        if np.ndim(value) == 0 and name != "rows":
            made["numbers"].append((name, f"{value}"))
    return made


def _rows(arrays: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows that an example becomes: one, or one for each of its regions."""
    rows = arrays.get("rows")
    if rows is None:
        yield dict(arrays)
        return
    for number in range(len(next(iter(rows.values())))):
        yield {name: array[number] for name, array in rows.items()}


def _cells(mask: Any) -> list[dict[str, float]]:
    """The marked patches of bool[N] in percent of the picture."""
    mask = np.asarray(mask, bool)
    side = round(mask.size**0.5)
    size = 100 / side
    return [
        {"x": round(column * size, 2), "y": round(row * size, 2), "w": round(size, 2)}
        for row, column in (divmod(int(k), side) for k in np.flatnonzero(mask))
    ]


def _percent(box: Sequence[float]) -> dict[str, float]:
    """(cx, cy, w, h) in 0..1 as left, top, width, height in percent."""
    cx, cy, w, h = (100 * float(value) for value in box)
    named = {"x": cx - w / 2, "y": cy - h / 2, "w": w, "h": h}
    return {name: round(value, 2) for name, value in named.items()}


def _said(box: Sequence[float]) -> str:
    return "box " + " ".join(f"{float(value):.3f}" for value in box)
