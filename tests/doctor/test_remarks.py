"""What the doctor says of made-up numbers: each remark just below its limit and just above it."""

import re

import pytest

from unified_fm.doctor import remarks
from unified_fm.doctor.remarks import Remark


def made(**changes):
    """Numbers of a source with which all is well."""
    base = {
        "records": {"in the source": 1000, "read": 1000, "used": 1000, "skipped": 0, "failed": 0},
        "skipped": {},
        "failed": {},
        "parts": {"seen": 0, "dropped": {}},
        "files": {"left out": [], "records in them, about": 0},
        "copies": {},
        "speed": {"records of a batch": 8},
    }
    return base | changes


def entry(count):
    return {"count": count, "records": [{"record": 0, "place": "", "image": "", "detail": "x"}]}


def skipped(count):
    records = {"in the source": 1000, "read": 1000, "used": 1000 - count, "skipped": count}
    return made(records=records | {"failed": 0}, skipped={"no text": entry(count)})


@pytest.mark.parametrize(
    ("numbers", "max_skip", "level", "says"),
    [
        (made(), 0.01, "note", None),
        (skipped(10), 0.01, "note", r"10 of 1,000 records \(1 %\) cannot be used: 10 no text; oth"),
        (skipped(11), 0.01, "stop", r"max_skip=0.01 allows 1 %"),
        (skipped(1), 0.0, "stop", r"max_skip=0 allows 0 %"),
        (made(parts={"seen": 100, "dropped": {"box": entry(2)}}), 0.01, "stop", "2 of 100 parts"),
        (made(parts={"seen": 200, "dropped": {"box": entry(2)}}), 0.01, "note", "are dropped"),
        (made(failed={"KeyError": entry(1)}), 0.01, "stop", r"1 records end a run: Key.*\(x\)"),
        (
            made(files={"left out": [{"reason": "r", "file": "f"}], "records in them, about": 99}),
            0.01,
            "stop",
            r"1 files are left out, with about 99 records: f \(r\)",
        ),
        (
            made(boxes={"box_format": "xywh", "boxes": 9, "fit their image": 3,
                        "likely mistake": "they look like x", "cannot be told": ""}),
            0.01,
            "mar",
            "box_format='xywh' fits 33 % of the boxes; they look like x",
        ),
        (made(copies={"records": {"copies": 11, "of": 1000}}), 0.01, "mar", "are copies of"),
        (made(copies={"records": {"copies": 9, "of": 1000}}), 0.01, "note", "are copies of"),
    ],
)  # fmt: skip
def test_the_verdict_follows_the_numbers(numbers, max_skip, level, says):
    found = remarks.of(numbers, max_skip)
    if says is None:
        assert found == []
    else:
        assert found[0].level == level
        assert re.search(says, found[0].says)
    assert remarks.verdict(found) == (remarks.VERDICTS[level], int(level != "note"))


def texts(**changes):
    """Made-up numbers of a source of a thousand texts, of which each fills most of its row."""
    base = {
        "texts": 1000,
        "words": 10_000,
        "with letters that are lost": 0,
        "cut by max_words": {"texts": 0, "words": 0},
        "cut by max_len": {"texts": 0, "words": 0},
        "max_len": 16,
        "pieces": {"all": 20_000, "unknown": 0},
        "tokens in the model": {"real": 12_000, "positions": 16_000},
        "other lengths": [],
    }
    return made(texts=base | changes)


def cut(by_len, by_words=(0, 0), **changes):
    """Texts and words that `max_len` and `max_words` cut."""
    parts = {"cut by max_len": by_len, "cut by max_words": by_words}
    return texts(
        **{by: dict(zip(("texts", "words"), of, strict=True)) for by, of in parts.items()},
        **changes,
    )


def length(max_len, share_cut, padding=0.0):
    return {"max_len": max_len, "texts cut": share_cut, "padding": padding}


def padded(real, *others):
    return texts(
        **{"tokens in the model": {"real": real, "positions": 16_000}, "other lengths": others}
    )


def lost(count):
    return texts(**{"with letters that are lost": count})


def unknown(count):
    return texts(pieces={"all": 20_000, "unknown": count})


def held(share):
    return texts(**{"rows that a batch can hold, of those it gets": share})


def elsewhere(count, wanted):
    return made(**{"pictures elsewhere": {
        "records": count, "fields": {"photo": count, "thumb": 1}, "wanted": wanted}})  # fmt: skip


def pictures(**changes):
    return made(pictures={"opened": 1000, "odd": {}} | changes)


def small(count):
    return pictures(**{"shorter side below it": count, "size in the model": 224})


def copied(**copies):
    """Of pairs."""
    return texts() | {"copies": copies} | {"pictures": {"opened": 1000, "odd": {}}}


REPAIR = "raise it, or cut the texts into pieces"
UTF_8 = "not UTF-8? Save it as UTF-8: iconv -f WINDOWS-1252 -t UTF-8 OLD >NEW"
SPELLING = "take a tokenizer of this language and spelling"
LOST = "of the texts have letters that are lost: bytes that are no UTF-8 (U+FFFD stands for them)"
ELSEWHERE = "what looks like one under a name that is not read: photo, thumb"
NAME = "call it `image`; in a table ?image=photo does it"
ROOM = "raise batch_size of the stream, or lower images or max_regions"
ONE_ID = "give the records of a group one id where `exclude` or `targets` go by id"
AS_TEXTS = "itc=dict(targets='texts') and itm=dict(exclude='texts') take none for a negative"
NO_TOKENIZER = {"texts": 9, "words": 90, "with letters that are lost": 0}


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (texts(), ()),
        (lost(10), ("note", f"1 % {LOST}", UTF_8)),
        (lost(11), ("mar", f"1.1 % {LOST}", UTF_8)),
        (
            cut((200, 500)),
            ("note", "max_len cuts 20 % of the texts: 5 % of all words are never seen", REPAIR),
        ),
        (
            cut((200, 501)),
            ("mar", "max_len cuts 20 % of the texts: 5 % of all words are never seen", REPAIR),
        ),
        (
            cut((0, 0), (30, 501)),
            ("mar", "max_words cuts 3 % of the texts: 5 % of all words are never seen", REPAIR),
        ),
        (
            cut((1, 251), (30, 251)),  # both together are above the limit
            ("mar", "max_len cuts 0.1 % of the texts and max_words cuts 3 % of the texts: 5 % of"
                    " all words are never seen", REPAIR),
        ),
        (
            cut((200, 900), **{"other lengths": [
                length(12, 0.9), length(20, 0.101), length(24, 0.1, 0.4), length(40, 0.0, 0.7)]}),
            ("mar", "max_len cuts 20 % of the texts: 9 % of all words are never seen",
             f"{REPAIR}; max_len=24 cuts 10 % of the texts, and 40 % is padding"),
        ),
        (
            made(texts=NO_TOKENIZER),
            ("note", "what max_len cuts is not known without the run's tokenizer",
             "give --config=... or --tokenizer=..."),
        ),
        (unknown(200), ()),
        (unknown(201), ("mar", "1 % of the pieces are unknown to the tokenizer", SPELLING)),
        (padded(8000), ()),
        (padded(7999), ("note", "50 % of the text positions are padding", "")),
        (
            padded(4000, length(8, 0.05), length(12, 0.049), length(14, 0.0), length(16, 0.0)),
            ("note", "75 % of the text positions are padding",
             "max_len=12 would cut 4.9 % of the texts, 14 would cut 0 % of the texts"),
        ),
        (held(0.98), ()),
        (
            held(0.979),
            ("mar", "a batch has room for 98 % of the rows of its images; the rest is left out",
             ROOM),
        ),
        (elsewhere(10, True), ("note", f"10 of 1,000 records have no picture, and {ELSEWHERE}",
                               NAME)),
        (elsewhere(11, True), ("mar", f"11 of 1,000 records have no picture, and {ELSEWHERE}",
                               NAME)),
        (elsewhere(1000, False), ("note", "1,000 of 1,000 records have no picture, and "
                                  + ELSEWHERE, NAME)),
        (small(500), ()),
        (
            small(501),
            ("note", "50 % of the pictures are smaller than the 224 pixels of the model: they are"
                     " enlarged", ""),
        ),
        (pictures(odd={"in CMYK: converted": 1}), ("note", "1 picture is in CMYK: converted", "")),
        (
            pictures(odd={"turned by EXIF": 1200}),
            ("note", "1,200 pictures are turned by EXIF", ""),
        ),
        (copied(texts={"copies": 100, "of": 1000}), ()),
        (
            copied(texts={"copies": 101, "of": 1000}),
            ("note", "10 % of the texts stand at another record, too", AS_TEXTS),
        ),
        (
            copied(pictures={"copies": 1, "groups": 1}),
            ("note", "pictures: 1 are copies of another, in 1 groups", ONE_ID),
        ),
        (
            copied(**{"pictures of nearly one colour": 3}),
            ("note", "3 pictures are of nearly one colour", ""),
        ),
    ],
)  # fmt: skip
def test_each_remark_at_its_limit(numbers, said):
    assert remarks.of(numbers, 0.01) == ([Remark(*said)] if said else [])


def test_too_few_records_and_such_as_were_not_read():
    few = made(speed={"records of a batch": 1001})
    said = remarks.of(few, 0.01)
    assert [each.level for each in said] == ["stop"] and "1,000 records are fewer" in said[0].says
    assert remarks.of(made(speed={"records of a batch": 1000}), 0.01) == []
    some = made(records=made()["records"] | {"read": 999})
    assert [each.level for each in remarks.of(some, 0.01)] == ["note"]


def test_the_most_serious_remark_decides():
    numbers = small(501) | {"texts": lost(11)["texts"], "failed": {"KeyError": entry(1)}}
    numbers["texts"]["pieces"] = {"all": 1, "unknown": 1}
    found = remarks.of(numbers, 0.01)
    assert [each.level for each in found] == ["stop", "mar", "mar", "note"]
    assert remarks.verdict(found) == (remarks.VERDICTS["stop"], 1)
    assert remarks.verdict(found[1:]) == (remarks.VERDICTS["mar"], 1)
    assert remarks.verdict(found[3:]) == (remarks.VERDICTS["note"], 0)
