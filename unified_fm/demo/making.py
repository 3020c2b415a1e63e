"""What the makers of the demo's parts share: splits by hash, counted writing, skips by reason."""

import collections
import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from unified_fm.data import records
from unified_fm.demo import packages


class Making:
    """What one `make` may use: its folder, the packages that are left, the counters, the bar."""

    def __init__(
        self,
        folder: Path,
        root: Path,
        used: Collection[str],
        bar,
        ratings: Path | None = None,
        debian: Path = Path("/"),
    ):
        self.folder, self.root, self.debian = folder, root, debian
        self._ratings = ratings
        self.counts: dict[str, int] = {}
        self.skipped: collections.Counter[str] = collections.Counter()
        self.facts: dict = {}  # what readers need to know, kept in the stamp
        self._packages = frozenset(used)
        self._bar = bar

    def has(self, package: str) -> bool:
        """Whether this package is used, that is, not left out."""
        return package in self._packages

    def rated(self) -> Path:
        """The file of the rated sentences.

        Raises:
            MissingPackage: none was given.
        """
        if self._ratings is None:
            raise packages.MissingPackage(
                "The rated sentences are in a file that no installed package has: "
                + packages.HOW_TO_GET_RATINGS
            )
        return self._ratings

    def skip(self, reason: str) -> None:
        """Counts something that is left out."""
        self.skipped[reason] += 1

    def each(self, items: Sequence) -> Iterator:
        """The items one by one, with progress shown."""
        self._bar.total = (self._bar.total or 0) + len(items)
        for item in items:
            yield item
            self._bar.update()

    def write(self, split: str, examples: Iterable[dict]) -> None:
        """Writes a split as ArrayRecord shards; each example gets its number as `id`."""
        count = 0

        def counted():
            nonlocal count
            for example in examples:
                yield {**example, "id": count}
                count += 1

        records.write_shards(self.folder / split, counted())
        self.counts[split] = count

    def write_splits(self, examples: Iterable[tuple[str, dict]], splits=("train", "val")) -> None:
        """Sorts (split, example) into splits and writes them all."""
        sorted_out = {split: [] for split in splits}
        for split, example in examples:
            sorted_out[split].append(example)
        for split in splits:
            self.write(split, sorted_out[split])


def split_of(key: str, **shares: float) -> str:
    """The split of a record: `split_of("a cat", val=0.1)` is "val" for a tenth of all keys."""
    digest = hashlib.sha256(key.encode("utf-8", errors="replace")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    for split, share in shares.items():
        if place < share:
            return split
        place -= share
    return "train"
