"""Pictures that another source has, too: those of a test set, and what was pre-trained on.

They are the same byte for byte, or look the same by the limits of `duplicates`: so a picture is
found in another size, quality or format as well, but not after a crop.
"""

from typing import Any

import numpy as np

from unified_fm.doctor import duplicates
from unified_fm.doctor.findings import NAMED, Findings
from unified_fm.doctor.reading import Reading

Tree = dict[str, Any]
SAME, ALIKE = "the same", "looks the same"
_COLUMNS = ("picture_content", "picture_dhash", "picture_grey", "picture_record")


def pairs(found: Findings, theirs: Findings) -> list[tuple[int, int, str]]:
    """(record here, first such record there, `SAME` or `ALIKE`) of each picture in both."""
    both = [
        [column for each in (found, theirs) if (column := each.column(name)) is not None]
        for name in _COLUMNS
    ]
    if any(len(columns) < 2 for columns in both):
        return []  # one of them has no pictures
    count = len(both[0][0])
    content, hashes, grey, records = (np.concatenate(columns) for columns in both)
    seen: dict[int, tuple[int, str]] = {}
    for how, groups in (
        (SAME, duplicates.same(content)),
        (ALIKE, duplicates.near(hashes, grey)),
    ):
        for group in groups:  # ascending, so those of here come first
            other = next((place for place in group if place >= count), None)
            if other is not None:
                own = (place for place in group if place < count)
                seen |= {place: (other, how) for place in own if place not in seen}
    return [(int(records[k]), int(records[seen[k][0]]), seen[k][1]) for k in sorted(seen)]


def of(reading: Reading, found: Findings, other: Reading, theirs: Findings) -> list[Tree]:
    """The pictures of `pairs`, with where their records stand."""
    return [
        {
            "record": here,
            "place": reading.source.place(here),
            "how": how,
            "there": {"record": there, "place": other.source.place(there)},
        }
        for here, there, how in pairs(found, theirs)
    ]


def summed(shared: list[Tree], source: str, found: Findings, theirs: Findings) -> Tree:
    """The section "against" of check.json, which names the first of them."""
    hows = [each["how"] for each in shared]
    return {
        "source": source,
        "pictures": found.table("pictures")["opened"],
        "pictures there": theirs.table("pictures")["opened"],
        **{how: hows.count(how) for how in (SAME, ALIKE)},
        "records": shared[:NAMED],
    }
