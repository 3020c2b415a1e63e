"""What the numbers mean for a run: what would stop it, what would mar it, what is good to know.

The limits stand here and in docs/data.md, and nowhere else.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from unified_fm.data.skips import Skips, TooManySkips
from unified_fm.doctor import against

MAR_WORDS_CUT = 0.05  # of all words, by max_len and max_words together
MAR_LOST = 0.01  # of all texts: letters that are no UTF-8
MAR_ELSEWHERE = 0.01  # of all records: a picture under a name that nobody reads
MAR_UNKNOWN = 0.01  # of all pieces: the vocabulary is of another language or spelling
MAR_COPIES = 0.01  # of all records: the same picture and texts as another one
NOTE_PADDING = 0.5  # of all positions of texts
NOTE_SMALL = 0.5  # of all pictures, smaller than in the model
NOTE_REPEATED = 0.1  # of all texts of pairs: they are no negatives of each other

_FEW_CUT = 0.05  # of all texts, by a shorter max_len that is proposed

LEVELS = ("stop", "mar", "note")
VERDICTS = {
    "stop": "A run on these data would stop.",
    "mar": "A run on these data would go through, and be worse than it need be.",
    "note": "Nothing would stop or mar a run on these data.",
}


@dataclasses.dataclass(frozen=True)
class Remark:
    """One thing that has to be said.

    Attributes:
        level: one of `LEVELS`.
        says: what was found.
        do: what can be done about it; "" for nothing.
    """

    level: str
    says: str
    do: str = ""


def of(made: Mapping[str, Any], max_skip: float) -> list[Remark]:
    """Remarks on a summary, the most serious first."""
    found = [
        *_records(made, max_skip),
        *_files(made, max_skip),
        *_parts(made, max_skip),
        *_elsewhere(made),
        *_boxes(made),
        *_texts(made),
        *_copies(made),
        *_against(made),
        *_pictures(made),
    ]
    return sorted(found, key=lambda remark: LEVELS.index(remark.level))


def verdict(remarks: list[Remark]) -> tuple[str, int]:
    """A sentence, and the exit status: 0 fine, 1 something would stop or mar a run."""
    level = remarks[0].level if remarks else "note"
    return VERDICTS[level], int(level != "note")


def share(part: float, whole: float) -> str:
    """A share in percent: "12 %", "0.3 %"."""
    value = 100 * part / max(whole, 1)
    return f"{value:.2g} %" if value < 10 else f"{value:.0f} %"


def _records(made: Mapping[str, Any], max_skip: float) -> Iterator[Remark]:
    records, batch = made["records"], made["speed"]["records of a batch"]
    if records["in the source"] < batch:
        yield Remark(
            "stop",
            f"{records['in the source']:,} records are fewer than the {batch:,} of one batch",
            "make batch_size (images, where rows are packed) smaller, or add data",
        )
    if records["read"] < records["in the source"]:
        yield Remark(
            "note", f"only {records['read']:,} of {records['in the source']:,} records were read"
        )
    for reason, entry in made["failed"].items():
        yield Remark(
            "stop",
            f"{entry['count']:,} records end a run: {reason}; the first is "
            f"{_first(entry)} {_detail(entry)}".rstrip(),
            "repair or remove them",
        )
    for reason, entry in made.get("unmeasured", {}).items():
        yield Remark("note", f"{entry['count']:,} records: {reason} at {_first(entry)}")
    if not records["used"]:
        yield Remark("stop", "no record can be used")
    skipped = records["skipped"]
    if not skipped:
        return
    reasons = ", ".join(f"{e['count']:,} {reason}" for reason, e in made["skipped"].items())
    text = f"{skipped:,} of {records['read']:,} records ({share(skipped, records['read'])}) cannot"
    text += f" be used: {reasons}"
    if skipped > max_skip * records["read"]:
        yield Remark(
            "stop",
            f"{text}; max_skip={max_skip:g} allows {100 * max_skip:g} %. With few records the run"
            " stops only after some epochs",
            "repair or remove them, or raise max_skip of the stream",
        )
    else:
        yield Remark("note", f"{text}; others take their places")


def _files(made: Mapping[str, Any], max_skip: float) -> Iterator[Remark]:
    files = made["files"]
    if not files["left out"]:
        return
    lost, there = files["records in them, about"], made["records"]["in the source"]
    names = ", ".join(f"{f['file']} ({f['reason']})" for f in files["left out"][:3])
    more = len(files["left out"]) - 3
    names += f" and {more} more" if more > 0 else ""
    stops = max_skip == 0 or _refused(max_skip, lost, there)
    yield Remark(
        "stop" if stops else "note",
        f"{len(files['left out']):,} files are left out, with about {lost:,} records: {names}",
        "bring them back" + ("" if not stops else ", or raise max_skip of the stream"),
    )


def _refused(max_skip: float, lost: int, there: int) -> bool:
    """Whether a run would refuse to start with so many records in files that cannot be read."""
    try:
        Skips("check", max_skip=max_skip).check_lost(lost, there)
    except TooManySkips:
        return True
    return False


def _parts(made: Mapping[str, Any], max_skip: float) -> Iterator[Remark]:
    parts = made["parts"]
    dropped = sum(entry["count"] for entry in parts["dropped"].values())
    if not dropped:
        return
    reasons = ", ".join(f"{e['count']:,} {reason}" for reason, e in parts["dropped"].items())
    text = f"{dropped:,} of {parts['seen']:,} parts of records ({share(dropped, parts['seen'])})"
    text += f" are dropped: {reasons}"
    if dropped > max_skip * parts["seen"]:
        text += f"; max_skip={max_skip:g} allows {100 * max_skip:g} %"
        yield Remark("stop", text, "repair them, or raise max_skip of the stream")
    else:
        yield Remark("note", text)


def _elsewhere(made: Mapping[str, Any]) -> Iterator[Remark]:
    found = made.get("pictures elsewhere")
    if found is None:
        return
    names = list(found["fields"])
    mars = found["wanted"] and found["records"] > MAR_ELSEWHERE * made["records"]["read"]
    yield Remark(
        "mar" if mars else "note",
        f"{found['records']:,} of {made['records']['read']:,} records have no picture, and what"
        f" looks like one under a name that is not read: {', '.join(names)}",
        f"call it `image`; in a table ?image={names[0]} does it",
    )


def _boxes(made: Mapping[str, Any]) -> Iterator[Remark]:
    boxes = made.get("boxes", {})
    if boxes.get("likely mistake"):
        fit = share(boxes["fit their image"], boxes["boxes"])
        text = f"box_format={boxes['box_format']!r} fits {fit} of the boxes"
        yield Remark("mar", f"{text}; {boxes['likely mistake']}")
    if boxes.get("cannot be told"):
        yield Remark("mar", boxes["cannot be told"])


def _texts(made: Mapping[str, Any]) -> Iterator[Remark]:
    texts = made.get("texts")
    if texts is None:
        return
    if lost := texts["with letters that are lost"]:
        yield Remark(
            "mar" if lost > MAR_LOST * texts["texts"] else "note",
            f"{share(lost, texts['texts'])} of the texts have letters that are lost: bytes that are"
            " no UTF-8 (U+FFFD stands for them)",
            "not UTF-8? Save it as UTF-8: iconv -f WINDOWS-1252 -t UTF-8 OLD >NEW",
        )
    by = [name for name in ("max_len", "max_words") if f"cut by {name}" in texts]
    cut = sum(texts[f"cut by {name}"]["words"] for name in by)
    if cut:
        parts = " and ".join(
            f"{name} cuts {share(texts[f'cut by {name}']['texts'], texts['texts'])} of the texts"
            for name in by
            if texts[f"cut by {name}"]["texts"]
        )
        yield Remark(
            "mar" if cut > MAR_WORDS_CUT * texts["words"] else "note",
            f"{parts}: {share(cut, texts['words'])} of all words are never seen",
            "; ".join(["raise it, or cut the texts into pieces", *_longer(texts)]),
        )
    if "max_len" not in texts:
        yield Remark(
            "note",
            "what max_len cuts is not known without the run's tokenizer",
            "give --config=... or --tokenizer=...",
        )
        return
    pieces, fill = texts["pieces"], texts["tokens in the model"]
    if pieces["unknown"] > MAR_UNKNOWN * pieces["all"]:
        yield Remark(
            "mar",
            f"{share(pieces['unknown'], pieces['all'])} of the pieces are unknown to the tokenizer",
            "take a tokenizer of this language and spelling",
        )
    padding = fill["positions"] - fill["real"]
    if padding > NOTE_PADDING * fill["positions"]:
        said = [
            f"{row['max_len']} would cut {share(row['texts cut'], 1)} of the texts"
            for row in texts["other lengths"]
            if row["max_len"] < texts["max_len"] and row["texts cut"] < _FEW_CUT
        ]
        yield Remark(
            "note",
            f"{share(padding, fill['positions'])} of the text positions are padding",
            f"max_len={', '.join(said)}" if said else "",
        )
    held = texts.get("rows that a batch can hold, of those it gets", 1.0)
    if held < 0.98:
        yield Remark(
            "mar",
            f"a batch has room for {100 * held:.0f} % of the rows of its images; the rest is left"
            " out",
            "raise batch_size of the stream, or lower images or max_regions",
        )


def _longer(texts: Mapping[str, Any]) -> list[str]:
    """The first longer `max_len` that cuts few texts, and what it costs."""
    for row in texts.get("other lengths", ()):
        if row["max_len"] > texts["max_len"] and row["texts cut"] <= 2 * _FEW_CUT:
            cut, padding = share(row["texts cut"], 1), share(row["padding"], 1)
            return [f"max_len={row['max_len']} cuts {cut} of the texts, and {padding} is padding"]
    return []


def _copies(made: Mapping[str, Any]) -> Iterator[Remark]:
    copies, pairs = made["copies"], "pictures" in made and "texts" in made
    records = copies.get("records")
    if records and records["copies"]:
        many = records["copies"] > MAR_COPIES * records["of"]
        yield Remark(
            "mar" if many else "note",
            f"{records['copies']:,} records ({share(records['copies'], records['of'])}) are copies"
            " of another one",
            "remove them: they are seen more often, and leak into held-out data",
        )
    for name in ("pictures", "pictures that look the same"):
        found = copies.get(name)
        if found and found["copies"] and (name != "pictures" or pairs):
            yield Remark(
                "note",
                f"{name}: {found['copies']:,} are copies of another, in {found['groups']:,} groups",
                "give the records of a group one id where `exclude` or `targets` go by id"
                if pairs
                else "",
            )
    texts = copies.get("texts")
    if texts and pairs and texts["copies"] > NOTE_REPEATED * texts["of"]:
        yield Remark(
            "note",
            f"{share(texts['copies'], texts['of'])} of the texts stand at another record, too",
            "itc=dict(targets='texts') and itm=dict(exclude='texts') take none for a negative",
        )
    if copies.get("pictures of nearly one colour"):
        plain = _pictures_are(copies["pictures of nearly one colour"])
        yield Remark("note", f"{plain} of nearly one colour")


def _against(made: Mapping[str, Any]) -> Iterator[Remark]:
    found = made.get("against")
    if found is None:
        return
    there = f"the {found['pictures there']:,} of {found['source']}"
    shared = found[against.SAME] + found[against.ALIKE]
    if not shared:
        yield Remark("note", f"none of the {found['pictures']:,} pictures is among {there}")
        return
    part = f"{shared:,} of {found['pictures']:,} pictures ({share(shared, found['pictures'])})"
    yield Remark(
        "mar",
        f"{part} are among {there}: {found[against.SAME]:,} the same, {found[against.ALIKE]:,} look"
        " the same",
        "against.jsonl names them: leave them out of what is trained on, or say that it has seen"
        " them",
    )


def _pictures(made: Mapping[str, Any]) -> Iterator[Remark]:
    pictures = made.get("pictures")
    if pictures is None:
        return
    small = pictures.get("shorter side below it", 0)
    if small > NOTE_SMALL * pictures["opened"]:
        yield Remark(
            "note",
            f"{share(small, pictures['opened'])} of the pictures are smaller than the"
            f" {pictures['size in the model']} pixels of the model: they are enlarged",
        )
    for kind, count in pictures["odd"].items():
        yield Remark("note", f"{_pictures_are(count)} {kind}")


def _pictures_are(count: int) -> str:
    return f"{count:,} pictures are" if count != 1 else "1 picture is"


def _first(entry: Mapping[str, Any]) -> str:
    record = entry["records"][0]
    return f"record {record['record']}" + (f" ({record['place']})" if record["place"] else "")


def _detail(entry: Mapping[str, Any]) -> str:
    detail = entry["records"][0]["detail"]
    return f"({detail})" if detail else ""
