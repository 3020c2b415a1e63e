"""Text normalisation before tokenising (X-FM 1.7)."""

import re

_TO_SPACE = re.compile(r"[,.'!?\"()*#:;~/-]")
_SPACES = re.compile(r"\s+")
KINDS = ("caption", "question", "none")
# Cut before the expressions run: a 10 MB caption must cost no more than a long one.
_CHARACTERS_PER_WORD = 256


def clean(text: str, kind: str, max_words: int) -> str:
    """Normalises one text as published.

    Args:
        text: as the source gave it.
        kind: "caption" (lower case, punctuation to spaces, `<person>` to "person", runs of spaces
            collapsed), "question" (the same without collapsing and without `<person>`), or "none"
            (the text as it is, for the text-only stream).
        max_words: words kept by "caption" and "question".

    Returns:
        The text; may be empty.
    """
    if kind == "none":
        return text
    text = text[: _CHARACTERS_PER_WORD * max_words].lower()
    if kind == "caption":
        text = text.replace("<person>", "person")
        text = _SPACES.sub(" ", _TO_SPACE.sub(" ", text)).strip()
    else:
        text = _TO_SPACE.sub(" ", text).rstrip()
    return " ".join(text.split(" ")[:max_words])
