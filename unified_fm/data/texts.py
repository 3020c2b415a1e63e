"""All texts of a source, one after the other, as often as they are asked for."""

import collections
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import tqdm

from unified_fm.data.skips import Skip
from unified_fm.data.source import open_source

# Where the library's sources have texts; of regions, those of each.
FIELDS = ("text", "sentences", "question", "regions")


class Texts:
    """The texts of a source's records, in their order; can be iterated more than once.

    Attributes:
        records: of the source.
        count, characters: of the texts of the last pass.
        skipped: {reason: records} that could not be read in it.
    """

    def __init__(
        self,
        source: str | Sequence[str],
        fields: Sequence[str] = FIELDS,
        *,
        progress: bool = False,
    ):
        """Opens the source.

        Args:
            source: a source string, or several.
            fields: of a record, whose texts count: a string, a list, or objects with a "text".
            progress: show a bar for each pass.

        Raises:
            ValueError: as `open_source`.
        """
        self._spec, self._source, self._fields = source, open_source(source), tuple(fields)
        self._progress = progress
        self.records = len(self._source)
        self._reset()

    def _reset(self) -> None:
        self.count = self.characters = 0
        self.skipped: collections.Counter[str] = collections.Counter()
        self._met: set[str] = set()

    def __iter__(self) -> Iterator[str]:
        """Every text that is not empty.

        Raises:
            ValueError: at the end, if there was none.
        """
        self._reset()
        numbers: Iterable[int] = range(self.records)
        if self._progress:
            numbers = tqdm.tqdm(numbers, desc="texts", unit=" records")
        for number in numbers:
            try:
                example = self._source[number]
            except Skip as skip:
                self.skipped[skip.reason] += 1
                continue
            self._met.update(example)
            for field in self._fields:
                for text in _of(example.get(field)):
                    self.count += 1
                    self.characters += len(text)
                    yield text
        if not self.count:
            raise ValueError(
                f"{self._spec}: none of its {self.records:,} records has a text in"
                f" {', '.join(self._fields)}; their fields are {', '.join(sorted(self._met))}"
            )


def _of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if value and not value.isspace():
            yield value
    elif isinstance(value, dict):
        yield from _of(value.get("text"))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _of(one)
