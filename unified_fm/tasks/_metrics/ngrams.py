"""Runs of words, and how many captions of a corpus have each."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence

from unified_fm.data import official
from unified_fm.files import write_whole

Words = Sequence[str]
Ngram = tuple[str, ...]

_FORMAT = "unified_fm document frequencies 1"


def count(words: Words, longest: int = 4) -> Counter[Ngram]:
    """How often each run of 1 to `longest` words occurs."""
    return Counter(
        tuple(words[start : start + n])
        for n in range(1, longest + 1)
        for start in range(len(words) - n + 1)
    )


@dataclasses.dataclass(frozen=True)
class DocumentFrequencies:
    """In how many images' references each n-gram occurs: CIDEr's idea of what is rare.

    They must come from a corpus, never from a batch: of one image alone every idf is 0.

    Attributes:
        counts: {n-gram: images}, for n = 1 to 4.
        images: of the corpus.
    """

    counts: Mapping[Ngram, int]
    images: int

    @property
    def hash(self) -> str:
        """What tells them from others."""
        return hashlib.sha256(self._text().encode()).hexdigest()[:12]

    def save(self, path: str | os.PathLike) -> None:
        """Writes JSON: `counts` by the words of the n-gram, joined by spaces."""
        write_whole(path, self._text())

    def _text(self) -> str:
        counts = {" ".join(ngram): self.counts[ngram] for ngram in sorted(self.counts)}
        return json.dumps(
            {"format": _FORMAT, "images": self.images, "counts": counts}, ensure_ascii=False
        )


def frequencies(references: Sequence[Sequence[Words]]) -> DocumentFrequencies:
    """Of the tokenised references of each image of a corpus."""
    counts: Counter[Ngram] = Counter()
    for captions in references:
        counts.update({ngram for words in captions for ngram in count(words)})
    return DocumentFrequencies(dict(counts), len(references))


def load_frequencies(path: str | os.PathLike) -> DocumentFrequencies:
    """Reads what `save` wrote.

    Raises:
        WrongFile: a pickle (`coco-train-words.p`), or another file.
    """
    found = official.load_json(path, instead="frequencies of the training references (JSON)")
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise official.WrongFile(f"{pathlib.Path(path)} has no field format: {_FORMAT!r}")
    counts = {tuple(words.split(" ")): int(n) for words, n in found["counts"].items()}
    return DocumentFrequencies(counts, int(found["images"]))
