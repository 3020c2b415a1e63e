"""What the tabs of the page ask a model: from what a visitor gave to what is shown.

No part of the page itself, so that it can be tested and read without one. Whatever cannot be
answered is a ValueError whose sentence the page shows.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from unified_fm.data import images
from unified_fm.inference import items

MOST_IMAGES, MOST_HITS, MOST_CHARACTERS = 64, 20, 1000
FORMS = ("fill_mask_alone", "fill_mask_over_image")
_WORDS = 5  # of a mask, and answers


def match(model: Any, path: str | None, text: str) -> dict[str, float]:
    """{"fits", "does not fit": probability} of a text and an image."""
    share = model.match(_image(path), _text(text))
    return {"fits": share, "does not fit": 1 - share}


def find(
    model: Any, gallery: Sequence[Any] | None, text: str, path: str | None, k: float
) -> list[tuple[str, str]]:
    """(path, cosine in words) of the k images that are nearest to a text, or else to an image.

    Args:
        model: to ask.
        gallery: paths of images.
        text: the query; if it is empty, `path` is.
        path: of an image.
        k: hits.
    """
    paths = list(gallery or ())
    if not paths:
        raise ValueError("the gallery is empty: upload a few images first")
    if len(paths) > MOST_IMAGES:
        raise ValueError(f"the gallery has {len(paths)} images; at most {MOST_IMAGES} are searched")
    if not (text or "").strip() and path is None:
        raise ValueError("say what to find: write a text, or upload an image")
    query = _text(text) if (text or "").strip() else _image(path)
    images = [_image(file) for file in paths]
    hits = model.search(query, images, k=max(1, min(int(k), MOST_HITS, len(paths))))
    return [(paths[hit.index], f"cosine {hit.score:.3f}") for hit in hits]


def locate(model: Any, path: str | None, phrase: str) -> tuple[Image.Image, str]:
    """An image as the model sees it, with the box of a phrase drawn in, and the box in words."""
    encoded = _image(path)
    box = model.locate(encoded, _text(phrase))
    upright = Image.fromarray(items.listed(encoded, "images").one(_pixels, 0, "raise"))
    corners = [round(value) for value in box[:4]]
    line = max(1, round(min(upright.size) / 100))
    pen = ImageDraw.Draw(upright)
    # White around the red, so that it is seen on red things, too.
    pen.rectangle(_grown(corners, line), outline="white", width=line)
    pen.rectangle(corners, outline="red", width=line)
    told = f"x {corners[0]} to {corners[2]}, y {corners[1]} to {corners[3]} pixels"
    share = "" if box.score != box.score else f"; the phrase fits the image: {box.score:.1%}"
    return upright, told + share


def words(model: Any, text: str, path: str | None) -> dict[str, float]:
    """{word: probability} of the mask of a text, about an image if there is one.

    Of several masks {"1: word", ...}, with the number of the mask.
    """
    masks = model.fill_mask(_text(text), None if path is None else _image(path), k=_WORDS)
    if len(masks) == 1:
        return dict(masks[0])
    numbered = enumerate(masks, 1)
    return {f"{number}: {word}": share for number, own in numbered for word, share in own}


def answer(model: Any, path: str | None, question: str) -> dict[str, float]:
    """{answer: probability} of a question about an image."""
    return dict(model.answer(_image(path), _text(question), k=_WORDS))


def describe(model: Any, path: str | None) -> str:
    """A sentence about an image."""
    return model.caption(_image(path))


def warming(model: Any, path: str) -> list[tuple[str, Callable[[], Any]]]:
    """(what, a call) that compiles what the tabs will ask, for an image at `path`."""
    calls = {
        "match": lambda: match(model, path, "a"),
        "search": lambda: [find(model, [path] * 2, "a", None, 1), find(model, [path], "", path, 1)],
        "locate": lambda: locate(model, path, "a"),
        "fill_mask": lambda: [
            words(model, "a [MASK]", path if over else None)
            for over, form in enumerate(FORMS)
            if model.has(form)
        ],
        "answer": lambda: answer(model, path, "what is it?"),
        "caption": lambda: describe(model, path),
    }
    return [(name, call) for name, call in calls.items() if name in model.tasks]


def _image(path: str | None) -> bytes:
    """The file of an image: its bytes, so that no message names a folder of the server."""
    if path is None:
        raise ValueError("upload an image first")
    return Path(path).read_bytes()


def _pixels(encoded: bytes) -> np.ndarray:
    """u8[H W 3] of a file that the model has read already, so its size is judged."""
    return images.Picture(encoded, max_pixels=images.MOST_PIXELS).pixels()


def _text(text: str | None) -> str:
    text = (text or "").strip()
    if not text:
        raise ValueError("write a text first")
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"the text has {len(text):,} characters; at most {MOST_CHARACTERS:,}")
    return text


def _grown(corners: Sequence[int], by: int) -> list[int]:
    x0, y0, x1, y1 = corners
    return [x0 - by, y0 - by, x1 + by, y1 + by]
