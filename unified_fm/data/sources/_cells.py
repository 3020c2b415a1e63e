"""Cells of a row of a table as text: where each ends, and what it says."""

import csv
import dataclasses
import functools
import io
import re
from typing import Any

from unified_fm.data.skips import Skip

MAX_ROW = 200_000_000  # bytes
ESCAPED = '\\"'  # a quote in a cell as Spark and MySQL write it


@dataclasses.dataclass(frozen=True)
class Form:
    r"""How cells are written.

    Attributes:
        delimiter: between them.
        quoted: whether quotes open and close a cell; else they are ordinary characters.
        escape: what makes the character behind it an ordinary one; "" for none.
    """

    delimiter: str
    quoted: bool = True
    escape: str = ""

    @functools.cached_property
    def of_bytes(self) -> re.Pattern[bytes]:
        """A cell from where it begins, as the module csv reads it; the group `end` is a delimiter,
        a line break that ends the row, or nothing at the end of a file. No match: a quote that
        nothing closes."""
        return re.compile(self._expression.encode(), re.DOTALL)

    @functools.cached_property
    def _of_text(self) -> re.Pattern[str]:
        return re.compile(self._expression, re.DOTALL)

    @property
    def _expression(self) -> str:
        sign, escape = re.escape(self.delimiter), re.escape(self.escape)
        escaped, but_break = (f"|{escape}.", rf"|{escape}[^\n]") if escape else ("", "")
        rest = rf"(?:[^{sign}\n{escape}]{escaped})*+"
        end = rf"(?P<end>{sign}|\n|\Z)"
        if not self.quoted:
            return rest + end
        # Only at the start of a cell does a quote open anything ...
        kinds = [rf'"(?:[^"{escape}]|""{escaped})*+"(?P<tail>{rest})', rf'(?!"){rest}']
        if self.delimiter != " ":
            # ... or behind spaces, if the quotes hold all of it: no table that is well-formed has
            # a quote there. One of several lines is not looked for: it may be a quote of speech.
            inside = rf'(?:[^"\n{escape}]|""{but_break})*+'
            kinds.insert(0, rf'(?P<spaces> +)"{inside}"(?={sign}|\r?(?:\n|\Z))')
        return f"(?:{'|'.join(kinds)}){end}"

    def read(self, row: str) -> list[str]:
        """The cells of a row.

        Raises:
            Skip: they cannot be told.
        """
        row = row.removesuffix("\r")
        if self.quoted and (' "' in row or ESCAPED in row):
            row = self._looked_at(row)
        csv.field_size_limit(MAX_ROW)  # of the process: 128 kB would not hold an image
        options: dict[str, Any] = {
            "delimiter": self.delimiter,
            "quoting": csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            "escapechar": self.escape or None,
        }
        try:
            rows = list(csv.reader(io.StringIO(row, newline=""), **options))
        except csv.Error as error:
            raise Skip("damaged row", str(error)) from error
        if len(rows) > 1:
            raise Skip("damaged row", "a line break within it")
        return rows[0] if rows else []

    def _looked_at(self, row: str) -> str:
        """The row without spaces before quotes.

        Raises:
            Skip: what stands behind a closing quote says that quotes are escaped.
        """
        made, position = [], 0
        while match := self._of_text.match(row, position):
            cell = match[0]
            if not self.escape and match["tail"] and ESCAPED in cell:
                raise Skip(
                    "damaged row",
                    f"it has {ESCAPED} in a cell; if that stands for a quote, say ?escape=\\",
                )
            made.append(cell.lstrip(" ") if match.groupdict().get("spaces") else cell)
            position = match.end()
            if not match["end"]:
                return "".join(made)
        return row
