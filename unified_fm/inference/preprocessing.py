"""From what a caller gives to the arrays that the model reads, as the run's evaluators make them.

Nothing is resized or cleaned here: the run's own pipelines do it, with the options that the run has
kept, and those of an evaluation (nothing is augmented, nothing masked).
"""

import dataclasses
import functools
import logging
import os
from typing import Any

import numpy as np
from PIL import Image

from unified_fm.data import images
from unified_fm.data.pipelines.base import ImageOptions, TextOptions
from unified_fm.data.skips import Skip

TEXT_ARRAYS = ("text", "text_mask", "text_masked", "segments")  # with an axis of tokens
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The pipelines by what they are for; None where the run has none.

    Attributes:
        image: of images.
        caption: of texts about images.
        text: of texts alone.
    """

    image: ImageOptions | None
    caption: TextOptions | None
    text: TextOptions | None

    def picture(self, item: Any) -> images.Picture:
        """The header of an image, upright (and the pixels, where it is an array).

        Raises:
            Skip: it is no image, or one that cannot be used.
        """
        if self.image is None:
            raise ValueError("this checkpoint reads no images")
        if isinstance(item, np.ndarray) and item.dtype != np.uint8:
            hint = "uint8 [H W 3] with 0..255 is needed: multiply by the range and round"
            raise Skip("image array of a wrong type", f"{item.dtype}; {hint}")
        if not isinstance(item, np.ndarray | Image.Image | bytes | bytearray | str | os.PathLike):
            raise Skip(
                "no image", f"{type(item).__name__}; a path, bytes, an array or a Pillow image"
            )
        return self.image.open_picture({"image": item})

    def pixels(self, picture: images.Picture) -> np.ndarray:
        """u8[H W 3], resized as in the evaluation of the run.

        Raises:
            Skip: it cannot be decoded.
        """
        assert self.image is not None
        if self._alone:  # it may have a way of its own, which only the whole call goes
            return self.image({"image": picture, "label": 0}, _unused())["image"]
        return self.image.image_arrays({"image": picture}, _unused())["image"]

    @functools.cached_property
    def _alone(self) -> bool:
        """Whether the pipeline of images wants nothing but an image."""
        return self.image is not None and not {"text", "images"} & {*self.image.spec()}

    def resized(self, item: Any) -> np.ndarray:
        """The pixels of an image; see `picture` and `pixels`."""
        return self.pixels(self.picture(item))

    def tokens(self, text: Any, *, about_image: bool) -> dict[str, np.ndarray]:
        """`text i32[L]` and `text_mask bool[L]` of a text, cleaned as in training.

        Raises:
            Skip: no text, or an empty one.
        """
        pipeline = self.reader(about_image)
        if not isinstance(text, str):
            raise Skip("no text", f"{type(text).__name__}; a str is needed")
        clean = pipeline.pick_text(text, _unused())
        arrays = pipeline.text_arrays(clean, _unused())
        most = pipeline.max_len
        if arrays["text_mask"].all() and pipeline.tokenizer.encode(clean, most + 1).length > most:
            _log.warning("cut to %d tokens, as in training: %.60r", most, text)
        return {"text": arrays["text"], "text_mask": arrays["text_mask"]}

    def reader(self, about_image: bool) -> TextOptions:
        """The pipeline of texts about images, or of texts alone; the other where there is one only.

        Raises:
            ValueError: the checkpoint reads no texts, or has no tokenizer.
        """
        pipeline = (self.caption or self.text) if about_image else (self.text or self.caption)
        if pipeline is None:
            raise ValueError("this checkpoint reads no texts, or there is no tokenizer beside it")
        return pipeline


def _unused() -> np.random.Generator:
    """For pipelines, which take one; by the options of an evaluation nothing is drawn."""
    return np.random.default_rng(0)
