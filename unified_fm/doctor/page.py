"""check.html: the numbers of check.json for people, with pictures of what was refused.

One file, no scripts, nothing fetched; whatever comes from the data is escaped by the template.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unified_fm import files
from unified_fm.doctor import cards, duplicates, pool
from unified_fm.doctor.reading import Reading
from unified_fm.doctor.remarks import Remark, share
from unified_fm.report import report

_TEMPLATE = Path(__file__).with_name("check.html.j2")
_GROUPS = 6  # of copies that are shown
_MEMBERS = 6


def write(
    path: Path,
    made: Mapping[str, Any],
    remarks: Sequence[Remark],
    verdict: tuple[str, int],
    reading: Reading,
) -> None:
    """Writes the page; it reads once more the records that it shows."""
    page = report.render(
        _TEMPLATE,
        title=f"Data check of {made['source']}",
        facts=list(_facts(made)),
        verdict=verdict[0],
        status=verdict[1],
        remarks=remarks,
        refused=list(_refused(made, reading)),
        sections=[*_pictures(made), *_texts(made), *_boxes(made), *_speed(made)],
        copies=list(_copies(made, reading)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, page)


def _facts(made: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    records, speed = made["records"], made["speed"]
    yield "read as", f"stream {made['stream']['name']}, pipeline {made['stream']['pipeline']}"
    yield "records", f"{records['read']:,} of {records['in the source']:,}"
    yield "used", f"{records['used']:,}"
    yield "skipped", f"{records['skipped']:,}"
    if made["parts"]["seen"]:
        dropped = sum(entry["count"] for entry in made["parts"]["dropped"].values())
        yield "parts dropped", f"{dropped:,} of {made['parts']['seen']:,}"
    if speed["records a second of one core"]:
        yield "one core", f"{speed['records a second of one core']:,} records/s"


def _refused(made: Mapping[str, Any], reading: Reading) -> Iterator[dict[str, Any]]:
    for kind, reasons in (
        ("end a run", made["failed"]),
        ("skipped", made["skipped"]),
        ("dropped", made["parts"]["dropped"]),
    ):
        for reason, entry in reasons.items():
            shown = cards.of(reading, entry["records"], again=reason != pool.ENDED)
            yield {"reason": reason, "count": f"{entry['count']:,}", "kind": kind, "cards": shown}


def _copies(made: Mapping[str, Any], reading: Reading) -> Iterator[dict[str, Any]]:
    titles = {
        "records": ("Records that are the same", "picture and texts"),
        "pictures": ("Pictures that are the same", "byte for byte"),
        "pictures that look the same": (
            "Pictures that look the same",
            f"hashes of 64 bits that differ in at most {duplicates.NEAR}, and means in grey that"
            f" differ by at most {duplicates.GREY:g} of 255",
        ),
        "texts": ("Texts that are the same", "but for capitals and spaces"),
    }
    for name, (title, note) in titles.items():
        found = made["copies"].get(name)
        if not found or not found["groups"]:
            continue
        groups = [
            {
                "title": f"{group['size']:,} times",
                "cards": cards.of(reading, group["records"], _MEMBERS),
            }
            for group in found["largest"][: _GROUPS if name != "texts" else 2]
        ]
        many = f"{found['copies']:,} of {found['of']:,} are copies of another, in"
        yield {
            "title": title,
            "note": f"{many} {found['groups']:,} groups ({note}). The largest:",
            "groups": groups,
        }


def _pictures(made: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    found = made.get("pictures")
    if found:
        rows = [
            ("opened", f"{found['opened']:,}"),
            ("formats", _counts(found["formats"])),
            ("modes", _counts(found["modes"])),
            ("height", _spread(found["height"])),
            ("width", _spread(found["width"])),
            ("pixels, on average", f"{found['megapixels']:g} million"),
            *((name, f"{count:,}") for name, count in found["odd"].items()),
        ]
        if "size in the model" in found:
            below = share(found["shorter side below it"], found["opened"])
            rows.append((f"shorter side below {found['size in the model']}", below))
        rows.append(("one side over 3 times the other", f"{found[_LONG]:,}"))
        yield _section("Pictures", rows)


_LONG = "longer than 3 times the other side"


def _texts(made: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    found = made.get("texts")
    if not found:
        return
    rows = [
        ("texts", f"{found['texts']:,}"),
        ("words", f"{found['words']:,}"),
        ("words of a text", _spread(found["words of a text"])),
        ("letters of a text", _spread(found["letters of a text"])),
    ]
    if lost := found["with letters that are lost"]:
        rows.append(("with letters that are no UTF-8", f"{lost:,}"))
    for by in ("max_words", "max_len"):
        if cut := found.get(f"cut by {by}"):
            texts, words = share(cut["texts"], found["texts"]), share(cut["words"], found["words"])
            rows.append((f"cut by {by}", f"{texts} of the texts, {words} of the words"))
    section = _section("Texts", rows)
    if "max_len" in found:
        fill, pieces = found["tokens in the model"], found["pieces"]
        rows.append(("tokens of a text", _spread(found["tokens of a text"])))
        rows.append(("padding", share(fill["positions"] - fill["real"], fill["positions"])))
        rows.append(("unknown pieces", share(pieces["unknown"], pieces["all"])))
        if "rows of an image" in found:
            rows.append(("rows of an image", f"{found['rows of an image']:g}"))
        section |= {
            "note": f"By tokens, with cls and sep; max_len={found['max_len']} cuts the red ones.",
            "bars": _bars(found["histogram"], found["max_len"]),
            "about": "What other lengths would cut, and how much of a batch would be padding:",
            "head": ("max_len", "texts cut", "tokens cut", "padding"),
            "lines": [
                (row["max_len"], *(share(row[name], 1) for name in list(row)[1:]))
                for row in found["other lengths"]
            ],
        }
    yield section


def _bars(rows: Sequence[Mapping[str, Any]], max_len: int) -> list[dict[str, Any]]:
    most = max(row["texts"] for row in rows) or 1
    return [
        {
            "short": row["from"] if number % 3 == 0 else "",
            "label": f"{row['from']} to {row['to']}" if row["to"] is not None else "more",
            "count": f"{row['texts']:,}",
            "height": round(100 * row["texts"] / most, 1),
            "cut": row["from"] > max_len,
        }
        for number, row in enumerate(rows)
    ]


def _boxes(made: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    found = made.get("boxes")
    if not found:
        return
    rows = [
        ("boxes", f"{found['boxes']:,}"),
        ("fit their image", share(found["fit their image"], found["boxes"])),
        ("boxes of an image", _spread(found["of an image"])),
    ]
    for name in ("width in pixels", "height in pixels", "area, share of the image"):
        if name in found:
            rows.append((name, _spread(found[name])))
    fits = [(says, share(count, found["boxes"])) for says, count in found["fit, by form"].items()]
    about = "Of all boxes, how many would fit their image if the four numbers were meant so:"
    section = _section("Boxes", rows) | {"head": ("written as", "fit"), "lines": fits}
    yield section | {"about": about}


def _speed(made: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    rows = []
    for name, value in made["speed"].items():
        if isinstance(value, Mapping):
            rows += [(f"{name}: {inner}", f"{v:,}") for inner, v in value.items()]
        elif value is not None:
            rows.append((name, value if isinstance(value, str) else f"{value:,}"))
    yield _section("Speed", rows)


def _section(title: str, rows: list[tuple[str, str]]) -> dict[str, Any]:
    section = {"title": title, "rows": rows, "note": "", "about": ""}
    return section | {"bars": (), "head": (), "lines": ()}


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _spread(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:,g}" for name, value in values.items())
