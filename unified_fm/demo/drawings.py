"""The drawings of the demo corpus: which emoji become objects, and how a drawing becomes pixels.

OpenMoji draws every emoji as a vector picture with alpha. Scenes need a few dozen drawings that a
small model can name, so an object has a one-word name, is one countable thing, and looks unlike
every other object. The choice is greedy and has no randomness: the same packages give the same
objects in the same order.
"""

import io
from typing import cast

import numpy as np
from PIL import Image

CATEGORIES = ("Activities", "Animals & Nature", "Food & Drink", "Objects", "Travel & Places")

# One-word names that nobody would say of the drawing, plurals and substances ("a bacon" is not a
# caption), drawings of symbols, pictures of whole places, and drawings whose name depends on a
# detail that is gone at 14 pixels (a poodle is a dog there).
_DROPPED = """
    abacus alembic amphora aubergine automobile bath billiards blossom blowfish boar bowling
    brick bug burrito chipmunk clamp comet cricket crutch custard dango dodo dumpling dvd elevator
    falafel ferry firecracker flatbread fondue hamsa headphone headstone herb hibiscus hocho hole
    hook hyacinth joystick kaaba khanda kiwifruit knot label ledger lotus luggage memo metro microbe
    minibus minidisc monorail moose moyai necktie oden orangutan otter oyster pager pick pinata
    placard plunger poodle postbox pouch ram receipt rock rosette sauropod scroll seat seedling
    shamrock shortcake softball station stethoscope tamale tangerine ticket trackball tram
    trolleybus videocassette wastebasket wing
    bacon beans blueberries books briefs bread broccoli bubbles butter camping chains cherries
    chopsticks cooking coral eyeglasses fog foggy garlic gloves goggles grapes jeans maracas
    pancakes peanuts popcorn shorts socks sparkles spaghetti sunglasses sushi waffle wood
    bank church cityscape cyclone desert factory fireworks hospital hotel houses mosque motorway
    mountain school stadium sunrise synagogue tornado wedding bed door window shower
    bikini bomb briefcase coffin dagger lipstick pill pistol purse razor syringe toilet sari
    kimono cockroach
"""
DROPPED = frozenset(_DROPPED.split())


def candidates(emoji: list[dict]) -> list[tuple[str, str]]:
    """Of rows of `emoji.json` those that may become objects: (name, unified code), by name."""
    found = {}
    for row in emoji:
        name = (row.get("name") or "").lower()
        plain = name.isascii() and name.isalpha() and len(name) > 2
        if plain and row["category"] in CATEGORIES and name not in DROPPED:
            found.setdefault(name, row["unified"])
    return sorted(found.items())


def choose(pictures: np.ndarray, count: int) -> list[int]:
    """Indices of `count` pictures that look unlike each other: greedy max-min over pixels.

    Starts with the two most distant pictures; each next one is the picture whose nearest chosen
    picture is farthest. They are u8[N S S 4], cut-outs in a common square, see `in_square`.

    Raises:
        ValueError: fewer than `count` pictures.
    """
    if len(pictures) < count:
        raise ValueError(f"{count} objects wanted, but there are only {len(pictures)} candidates")
    rgba = pictures.astype(np.float32) / 255
    alpha = rgba[..., 3:]
    ground = 0.9  # the light ground of the scenes, so that a white drawing is a faint drawing
    shown = np.concatenate([rgba[..., :3] * alpha + ground * (1 - alpha), alpha], axis=-1)
    flat = _blur(shown).reshape(len(shown), -1)
    squares = (flat**2).sum(1)
    distance = np.maximum(squares[:, None] + squares[None] - 2 * flat @ flat.T, 0)  # f[N N]

    chosen = [int(i) for i in np.unravel_index(distance.argmax(), distance.shape)][:count]
    while len(chosen) < count:
        nearest = distance[chosen].min(0)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return sorted(chosen)


def crop(drawing: np.ndarray) -> np.ndarray:
    """Cuts a drawing u8[H W 4] to the bounding box of its alpha (values under 32 count as empty).

    Raises:
        ValueError: nothing is drawn.
    """
    drawing = np.where(drawing[..., 3:] < 32, 0, drawing).astype(np.uint8)
    alpha = drawing[..., 3]
    rows, columns = np.nonzero(alpha.any(1))[0], np.nonzero(alpha.any(0))[0]
    if not len(rows):
        raise ValueError("the drawing is empty: no pixel has an alpha of 32 or more")
    return drawing[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def resize(cutout: np.ndarray, side: int) -> np.ndarray:
    """A cut-out whose longer side is exactly `side` pixels and whose border rows are not empty."""
    for longer in range(side, 2 * side):  # faint border rows are cropped away: ask for a bit more
        scale = longer / max(cutout.shape[:2])
        height, width = (max(1, round(length * scale)) for length in cutout.shape[:2])
        image = Image.fromarray(cutout).resize((width, height), Image.Resampling.LANCZOS)
        small = crop(np.asarray(image))
        if max(small.shape[:2]) >= side:
            break
    return crop(small[:side, :side])


def in_square(cutout: np.ndarray, side: int) -> np.ndarray:
    """The cut-out at its largest, in the middle of an empty square: u8[side side 4]."""
    small = resize(cutout, side)
    height, width = small.shape[:2]
    square = np.zeros((side, side, 4), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = small
    return square


def on_ground(drawing: np.ndarray, ground: int = 255) -> np.ndarray:
    """A drawing u8[H W 4] on a plain grey ground: u8[H W 3]."""
    alpha = drawing[..., 3:].astype(np.uint16)
    return ((drawing[..., :3] * alpha + ground * (255 - alpha) + 127) // 255).astype(np.uint8)


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG bytes of u8[H W], u8[H W 3] or u8[H W 4]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """JPEG bytes of u8[H W 3], with all its colours: official file names end in .jpg."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _blur(pictures: np.ndarray) -> np.ndarray:
    """Means of 3 x 3 pixels: two drawings shifted by a pixel are the same to the eye."""
    size = pictures.shape[1]
    padded = np.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    shifts = [padded[:, y : y + size, x : x + size] for y in range(3) for x in range(3)]
    return cast(np.ndarray, sum(shifts)) / 9
