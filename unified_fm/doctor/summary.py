"""What a check has found, as numbers by name: the content of check.json and of the page."""

import collections
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from unified_fm.data import boxes
from unified_fm.data.pipelines.base import ImageOptions, TextOptions
from unified_fm.doctor import box_forms, duplicates, pictures
from unified_fm.doctor.findings import Findings
from unified_fm.doctor.reading import Reading

Tree = dict[str, Any]
_GROUPS, _MEMBERS = 50, 10  # of copies that are listed
_LENGTHS = (0.5, 0.9, 0.99, 1.0)  # shares of texts that a length is proposed for
_SHARES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}


def of(reading: Reading, found: Findings, *, lengths: bool, configured: bool) -> Tree:
    """All sections that this source has.

    Args:
        reading: the job, opened.
        found: in all of its records.
        lengths: whether the tokenizer is the one of the run, so that lengths in tokens mean
            anything.
        configured: whether the sizes of the stream are those of a run.
    """
    records = found.table("records")
    made: Tree = {
        "source": joined(reading.job.entry.source),
        "stream": {"name": reading.job.stream, "pipeline": reading.job.entry.pipeline},
        "records": {
            "in the source": reading.loader.records,
            **{name: records[name] for name in ("read", "used", "skipped", "failed")},
        },
        "skipped": _listed(found, "skipped"),
        "failed": _listed(found, "failed"),
        "parts": {
            "seen": found.table("parts")["seen"],
            "dropped": _listed(found, "dropped", "(part) "),
        },
        "files": {
            "left out": [{"reason": r, "file": f} for r, f in reading.source.problems],
            "records in them, about": reading.source.lost,
        },
        "copies": _copies(reading, found),
    }
    if found.table("pictures")["opened"]:
        made["pictures"] = _pictures(reading, found, configured=configured)
    if found.table("pictures elsewhere"):
        made["pictures elsewhere"] = {
            "records": records["with pictures elsewhere"],
            "fields": _counted(found, "pictures elsewhere"),
            "wanted": reading.job.guessed or pictures.takes(reading.loader.pipeline),
        }
    if found.table("texts")["all"]:
        made["texts"] = _texts(reading, found, lengths=lengths)
    if found.table("boxes")["all"]:
        made["boxes"] = _boxes(reading, found)
    if found.table("unmeasured"):
        made["unmeasured"] = _listed(found, "unmeasured")
    made["speed"] = _speed(reading, found)
    return made


def _listed(found: Findings, table: str, mark: str = "") -> Tree:
    """{reason: how many, and which of them}, the most frequent first."""
    return {
        reason: {"count": count, "records": found.named.get(mark + reason, [])}
        for reason, count in sorted(found.table(table).items(), key=lambda kv: (-kv[1], kv[0]))
    }


def joined(source: str | Sequence[str]) -> str:
    """The source of a stream in one line."""
    return source if isinstance(source, str) else " + ".join(source)


def _copies(reading: Reading, found: Findings) -> Tree:
    """Groups of records, pictures and texts that are the same, and pictures that look the same."""
    made: Tree = {}
    for name, column, of_record in (
        ("records", "whole", "whole_record"),
        ("pictures", "picture_content", "picture_record"),
        ("texts", "text", "text_record"),
    ):
        contents, numbers = found.column(column), found.column(of_record)
        if contents is not None and numbers is not None:
            made[name] = _groups(reading, duplicates.same(contents), numbers, len(contents))
    contents, numbers = found.column("picture_content"), found.column("picture_record")
    hashes, grey = found.column("picture_dhash"), found.column("picture_grey")
    if contents is not None and numbers is not None and hashes is not None and grey is not None:
        _, first = np.unique(contents, axis=0, return_index=True)
        first.sort()  # one of each content: exact copies are in a list of their own
        groups = duplicates.near(hashes[first], grey[first])
        made["pictures that look the same"] = _groups(reading, groups, numbers[first], len(first))
        made["pictures of nearly one colour"] = duplicates.flat(grey)
    return made


def _groups(reading: Reading, groups: duplicates.Groups, numbers: np.ndarray, total: int) -> Tree:
    """How many there are more than once, and the records of the largest groups."""
    return {
        "of": total,
        "groups": len(groups),
        "copies": sum(len(group) - 1 for group in groups),
        "largest": [
            {
                "size": len(group),
                "records": [
                    _named(reading, int(number))
                    for number in list(dict.fromkeys(numbers[group].tolist()))[:_MEMBERS]
                ],
            }
            for group in groups[:_GROUPS]
        ],
    }


def _named(reading: Reading, record: int) -> Tree:
    return {"record": record, "place": reading.source.place(record)}


def _pictures(reading: Reading, found: Findings, *, configured: bool) -> Tree:
    sizes = found.column("size")
    assert sizes is not None, "each picture that is counted as opened has a size"
    made: Tree = {
        "opened": found.table("pictures")["opened"],
        "formats": _counted(found, "format"),
        "modes": _counted(found, "mode"),
        "odd": _counted(found, "odd"),
        "height": _spread(sizes[:, 0]),
        "width": _spread(sizes[:, 1]),
        "megapixels": round(float(sizes.astype(np.float64).prod(1).mean()) / 1e6, 4),
    }
    pipeline = reading.loader.pipeline
    if configured and isinstance(pipeline, ImageOptions):
        made["size in the model"] = pipeline.size
        made["shorter side below it"] = int((sizes.min(1) < pipeline.size).sum())
    long = sizes.max(1) / np.maximum(sizes.min(1), 1)
    made["longer than 3 times the other side"] = int((long > 3).sum())
    return made


def _counted(found: Findings, table: str) -> dict[str, int]:
    return dict(sorted(found.table(table).items(), key=lambda kv: (-kv[1], kv[0])))


def _spread(values: np.ndarray) -> dict[str, float]:
    """The least, the median, ... of some numbers."""
    ordered = np.sort(values)
    return {
        name: round(float(ordered[round(share * (len(ordered) - 1))]), 4)
        for name, share in _SHARES.items()
    }


def _texts(reading: Reading, found: Findings, *, lengths: bool) -> Tree:
    texts, words = found.table("texts"), found.table("words")
    made: Tree = {
        "texts": texts["all"],
        "words": words["all"],
        "words of a text": _spread_of(found.table("text_words")),
        "letters of a text": _spread_of(found.table("text_letters")),
        "with letters that are lost": texts["with letters that are lost"],
        "cut by max_words": {
            "texts": texts["cut by max_words"],
            "words": words["cut by max_words"],
        },
    }
    pipeline = reading.loader.pipeline
    if not lengths or not isinstance(pipeline, TextOptions):
        return made
    pieces, fill = found.table("pieces"), found.table("fill")
    tokens = found.table("tokens")
    made |= {
        "max_len": pipeline.max_len,
        "tokens of a text": _spread_of(tokens),
        "cut by max_len": {
            "texts": texts["cut by max_len"],
            "words": words["cut by max_len"],
            "tokens": found.table("tokens_sum")["cut by max_len"],
            "of tokens": found.table("tokens_sum")["all"],
        },
        "pieces": {"all": pieces["all"], "unknown": pieces["unknown"]},
        "tokens in the model": {"real": fill["tokens"], "positions": fill["positions"]},
        "other lengths": _other_lengths(tokens),
        "histogram": _histogram(tokens, pipeline.max_len),
    }
    if pipeline.packed and found.table("records")["used"]:
        each = fill["rows"] / found.table("records")["used"]
        made["rows of an image"] = round(each, 3)
        made["rows that a batch can hold, of those it gets"] = round(
            reading.loader.rows / max(each * reading.loader.slots, 1e-9), 3
        )
    return made


def _table(counts: collections.Counter[str]) -> tuple[np.ndarray, np.ndarray]:
    """The numbers that were counted, ascending, and how often each was."""
    values = np.array(sorted(map(int, counts)), np.int64)
    return values, np.array([counts[str(value)] for value in values.tolist()], np.int64)


def _spread_of(counts: collections.Counter[str]) -> dict[str, float]:
    """As `_spread`, of numbers that were counted."""
    values, times = _table(counts)
    ends = np.cumsum(times) - 1  # the place of the last one of each
    places = {name: round(share * ends[-1]) for name, share in _SHARES.items()}
    return {name: int(values[np.searchsorted(ends, at)]) for name, at in places.items()}


def _other_lengths(counts: collections.Counter[str]) -> list[Tree]:
    """What other `max_len` would cut and waste."""
    values, times = _table(counts)
    ends, made = np.cumsum(times), []
    for share in _LENGTHS:
        length = max(3, int(values[np.searchsorted(ends, share * ends[-1])]))
        kept = int((np.minimum(values, length) * times).sum())
        row = {
            "max_len": length,
            "texts cut": round(float(times[values > length].sum() / ends[-1]), 4),
            "tokens cut": round(1 - kept / int((values * times).sum()), 4),
            "padding": round(1 - kept / (length * int(ends[-1])), 4),
        }
        if row not in made:
            made.append(row)
    return made


def _histogram(counts: collections.Counter[str], max_len: int) -> list[Tree]:
    """Texts by tokens, in about 24 bars up to where 99.5 of 100 texts end; one for the others."""
    values, times = _table(counts)
    ends = np.cumsum(times)
    last = max(int(values[np.searchsorted(ends, 0.995 * ends[-1])]), max_len)
    width = -(-last // 24)
    bars = last // width + 1
    texts = np.bincount(np.minimum(values // width, bars), times, minlength=bars + 1).astype(int)
    made: list[Tree] = [
        {"from": k * width, "to": (k + 1) * width - 1, "texts": int(texts[k])} for k in range(bars)
    ]
    return [*made, {"from": bars * width, "to": None, "texts": int(texts[bars])}]


def _boxes(reading: Reading, found: Findings) -> Tree:
    pipeline = reading.loader.pipeline
    counts, box = found.table("boxes"), found.column("box")
    made: Tree = {
        "boxes": counts["all"],
        "fit their image": counts["fit"],
        "fit, by form": {
            box_forms.FORMS[form].says: fits
            for form, fits in sorted(found.table("form_fits").items(), key=lambda kv: -kv[1])
        },
        "of an image": _spread_of(found.table("boxes_in_an_image")),
    }
    if isinstance(pipeline, boxes.BoxOptions):
        made["box_format"] = pipeline.box_format
        made["likely mistake"] = (
            box_forms.mistake(found, pipeline.box_format) or found.parts().advice()
        )
        made["cannot be told"] = box_forms.undecided(found, pipeline.box_format)
    if box is not None:
        made["width in pixels"] = _spread(box[:, 0])
        made["height in pixels"] = _spread(box[:, 1])
        made["area, share of the image"] = _spread(box[:, 2])
        edges = [0.0, *box_forms.AREAS, math.inf]
        made["by area"] = [
            {"from": low, "to": high if high < math.inf else None, "boxes": n}
            for k, (low, high) in enumerate(itertools.pairwise(edges))
            if (n := found.table("box_area")[str(k)])
        ]
    return made


def _speed(reading: Reading, found: Findings) -> Tree:
    """How fast the pipeline is on one core, as it was measured while all cores were reading."""
    read = found.table("records")["read"]
    cpu, wall = found.seconds["cpu"], found.seconds["wall"]
    return {
        "records a second of one core": round(read / cpu, 1) if cpu else None,
        "records a second of one process, waiting included": round(read / wall, 1)
        if wall
        else None,
        "hours of one core for an epoch": _hours(reading.loader.records * cpu / max(read, 1)),
        "records": reading.loader.records,
        "records of a batch": reading.loader.slots,
        "batches of an epoch": reading.loader.records // max(reading.loader.slots, 1),
    }


def _hours(seconds: float) -> float:
    return float(f"{seconds / 3600:.3g}")
