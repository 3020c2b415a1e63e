"""GLUE's submission of what runs have predicted: eleven files in one zip."""

import pathlib
from collections.abc import Sequence

from unified_fm import choices
from unified_fm.tasks._scoring import glue_submission
from unified_fm.tasks._scoring.glue_submission import FILES


def write(given: Sequence[str], to: pathlib.Path) -> str:
    """Writes the zip; gives a line about it.

    Args:
        given: "CoLA=runs/cola/predictions/test-800.tsv", or the path of a file that is called as
            the server wants it ("CoLA.tsv").
        to: the zip.

    Raises:
        ValueError: an unknown, missing or doubled file, rows that are not those of the test set, or
            a label that the task does not have.
        OSError: a file is not there.
    """
    found: dict[str, list[str]] = {}
    for text in given:
        called, equals, place = text.partition("=")
        path = pathlib.Path(place if equals else text)
        name = f"{called.removesuffix('.tsv')}.tsv" if equals else path.name
        choices.check("file of a GLUE submission", name, FILES)
        if name in found:
            raise ValueError(f"{name} is named twice")
        rows = glue_submission.read(path, name)
        wanted = [str(row) for row in range(len(rows))]
        if missing := [row for row in wanted if row not in rows]:
            raise ValueError(f"{path}: row {missing[0]} is missing; all of the test set are needed")
        found[name] = [rows[row] for row in wanted]
    glue_submission.write(to, found)
    return f"{sum(map(len, found.values())):,} predictions in {len(found)} files\nwrote {to}"
