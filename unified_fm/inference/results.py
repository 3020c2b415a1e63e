"""What methods return beside arrays and strings: small records."""

from typing import NamedTuple


class Hit(NamedTuple):
    """One candidate of a search.

    Attributes:
        index: its place in the gallery.
        score: cosine in -1..1; of a search with `rerank` the probability that it matches, 0..1.
    """

    index: int
    score: float


class Box(NamedTuple):
    """Where something is, in pixels of the given image as a viewer shows it (after EXIF).

    Attributes:
        x0, y0, x1, y1: left, top, right and bottom, within the image.
        score: probability that the phrase matches the image, 0..1. The box head has no confidence
            of its own, so this says nothing about how well the box fits. NaN where the checkpoint
            has no matching head.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    score: float

    def __repr__(self) -> str:
        """Hundredths of a pixel, which is more than a box head knows."""
        named = zip(self._fields[:4], self[:4], strict=True)
        corners = (f"{name}={value:.2f}" for name, value in named)
        return f"Box({', '.join(corners)}, score={self.score:.2g})"
