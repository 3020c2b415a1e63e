"""What a pipeline is, and the options that several share: how a text and an image become arrays."""

import dataclasses
import functools
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, cast

import numpy as np

from unified_fm import choices, plugins
from unified_fm.data import captions, images, masking, specs
from unified_fm.data.randaugment import randaugment
from unified_fm.data.skips import Parts, Skip
from unified_fm.data.sources.base import Source
from unified_fm.data.specs import ArraySpec
from unified_fm.data.tokenizer import Encoded, Tokenizer

Arrays = dict[str, Any]  # {name: array, or a NumPy number}


class Pipeline(Protocol):
    """Turns an example into arrays: a frozen dataclass, whose fields are a stream's options.

    Derive from it (or from `TextOptions`, `ImageOptions`): then `__call__` is all that is to be
    written. A field called `tokenizer` is given the run's; one called `augment` is set to "none"
    for evaluation, `num_masked` and `mask_rate` to 0, and one called `truth` (`data.truth`) to
    "unused" where a task predicts and compares by itself.

    Attributes:
        packed: whether a batch has another number of rows than of examples; such a stream has the
            option `images`.
        files: the options that name a file without which its arrays cannot be made; the run keeps
            a copy.
        class_names: of the classes of its labels, by number, where it is not the source that says.
    """

    packed: ClassVar[bool] = False
    files: ClassVar[Sequence[str]] = ()
    class_names: ClassVar[Sequence[str]] = ()

    def __post_init__(self) -> None:
        """Looks at its options; whoever derives calls it, too. Raises ValueError: a wrong one."""

    @abstractmethod
    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The arrays of one example, of the same names, shapes and dtypes for every one.

        `parts`, if it is there, is the account (`skips.Parts`) of what was dropped of the example.

        Raises:
            Skip: the example cannot be used.
        """
        ...

    def sample(self) -> dict[str, Any]:
        """A made example that the pipeline can use: `spec` finds its arrays by it."""
        picture = np.zeros((8, 8, 3), np.uint8)
        return {
            **{"id": 0, "label": 0, "image": picture, "images": [picture, picture]},
            **{"text": "a", "question": "a", "answers": ["a"], "sentences": ["a"]},
            **{"objects": ["a"], "regions": [{"box": [0, 0, 8, 8], "text": "a"}]},
        }

    def spec(self) -> dict[str, ArraySpec]:
        """{array: shape and dtype of one row of it}.

        Raises:
            ValueError: the made example does not do.
        """
        try:
            arrays = self(self.sample(), np.random.default_rng(0))
        except Exception as error:
            raise ValueError(
                f"{type(self).__module__}.{type(self).__qualname__} cannot tell which arrays it"
                f" gives: it takes no example with the fields {', '.join(self.sample())}"
                f" ({error!r}). Define `sample(self)`, an example that it can use"
            ) from error
        return {name: specs.of_one(array) for name, array in arrays.items() if name != "parts"}

    def records_of(self, source: Source) -> Source:
        """The records that the pipeline is given, of the source in the config: by default its own.

        Long documents become rows, of which each is a record (`documents.Rows`).
        """
        return source

    def collate(self, examples: list[dict[str, Any] | None], *, rows: int, groups: int) -> Arrays:
        """A batch of one process from the arrays of its examples: a row for each.

        Args:
            examples: what `__call__` gives; None, for packed pipelines only, where there is none.
            rows, groups: of this process; for packed pipelines.

        Raises:
            ValueError: the examples have different arrays.
        """
        present = [example for example in examples if example is not None]
        names = present[0].keys()
        for example in present:
            if example.keys() != names:
                raise ValueError(
                    f"the examples have different arrays: {sorted(names)} and {sorted(example)}"
                )
        return {name: np.stack([example[name] for example in present]) for name in names}


def load(name: str) -> type[Pipeline]:
    """The class of a pipeline in `data/pipelines`, or in a dotted module of the user's.

    Raises:
        ValueError: an unknown name.
        TypeError: as `checked`.
    """
    return checked(plugins.load("data.pipelines", name))


def checked(plugin: Any) -> type[Pipeline]:
    """Refuses a class that is no pipeline.

    Raises:
        TypeError: it is no dataclass, or lacks a part of the contract.
    """
    what = f"{plugin.__module__}.{plugin.__qualname__}"
    if dataclasses.is_dataclass(plugin):
        plugins.check_contract(plugin, Pipeline, what)
        return cast(type[Pipeline], plugin)
    raise TypeError(f"{what} is no dataclass: the fields of a pipeline are its options")


def options_of(plugin: Any) -> dict[str, dataclasses.Field[Any]]:
    """The options of a pipeline, a dataclass, by name."""
    return {field.name: field for field in dataclasses.fields(plugin) if field.init}


def make(
    plugin: type[Pipeline],
    options: Mapping[str, Any],
    *,
    tokenizer: Tokenizer | None = None,
    what: str,
    others: Iterable[str] = (),
) -> Pipeline:
    """Makes a pipeline, with the tokenizer if it takes one.

    Messages say whose it is (`what`), and name options that are taken elsewhere (`others`).

    Raises:
        TypeError: an unknown option, with the nearest one.
        ValueError: a tokenizer is needed and there is none, or a wrong value.
    """
    known, given = options_of(plugin), dict(options)
    for key in given:
        if key not in known or key == "tokenizer":
            possible = choices.possible(key, {*known, *others} - {"tokenizer"})
            raise TypeError(f"{what} takes no option {key!r}; {possible}")
    if "tokenizer" in known:
        given["tokenizer"] = tokenizer
        if tokenizer is None and known["tokenizer"].default is dataclasses.MISSING:
            raise ValueError(f"{what} needs a tokenizer ({plugin.__module__}); none given")
    return plugin(**given)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextOptions(Pipeline):
    """Text to `text`, `text_mask`, and unless `mask_rate` is 0 to the masked copy.

    Attributes:
        tokenizer: given by the stream.
        max_len: tokens of the output, cls and sep included.
        mask_rate, max_masked, mask_units, special_tokens: see `masking.TokenMasker`.
        clean, max_words: see `captions.clean`.
    """

    tokenizer: Tokenizer
    max_len: int = 30
    mask_rate: float = 0.5
    max_masked: int = 15
    mask_units: str = "words"
    special_tokens: str = "never"
    clean: str = "caption"
    max_words: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_len < 3:
            raise ValueError(f"max_len is {self.max_len}; cls, sep and one word need 3")
        choices.check("clean", self.clean, captions.KINDS)
        _ = self.masker  # refuses wrong options
        if self.mask_rate and self.tokenizer is not None and not self.tokenizer.has_mask:
            raise ValueError(
                f"mask_rate is {self.mask_rate}, and the tokenizer has no mask token (CLIP's has"
                " none); possible: mask_rate=0, or another tokenizer"
            )

    @functools.cached_property
    def masker(self) -> masking.TokenMasker:
        """The token masker that these options describe."""
        return masking.TokenMasker(
            rate=self.mask_rate,
            max_masked=self.max_masked,
            units=self.mask_units,
            special_tokens=self.special_tokens,
        )

    def pick_text(self, text: Any, rng: np.random.Generator) -> str:
        """One clean text; of a list a random one.

        Raises:
            Skip: no text, an empty one, or not a text.
        """
        if isinstance(text, list | tuple) and text:
            text = text[rng.integers(len(text))]
        if text is None or text == []:
            raise Skip("no text")
        if not isinstance(text, str):
            raise Skip("text of a wrong type", type(text).__name__)
        text = captions.clean(text, self.clean, self.max_words)
        if not text or text.isspace():
            raise Skip("empty text")
        return text

    def text_arrays(
        self,
        text: str,
        rng: np.random.Generator,
        second: str | None = None,
        *,
        parts: Parts | None = None,
    ) -> Arrays:
        """The arrays of one clean text or of a pair; keys as in `text.Pipeline`.

        A text that is cut counts in `parts`; without it, in an account that comes as `parts`.
        """
        encoded = self.tokenizer.encode(text, self.max_len, second)
        arrays = self.encoded_arrays(encoded, rng)
        if second is not None:
            arrays["segments"] = encoded.segments
        if encoded.cut:
            if parts is None:
                parts = arrays["parts"] = Parts()
            parts.cut += 1
        return arrays

    def encoded_arrays(self, encoded: Encoded, rng: np.random.Generator) -> Arrays:
        """The arrays of what the tokenizer gave."""
        arrays: Arrays = {"text": encoded.ids, "text_mask": encoded.mask}
        if self.mask_rate:
            arrays |= self.masker(encoded, self.tokenizer, rng)
        return arrays


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageOptions(Pipeline):
    """Image to `image`, and unless `num_masked` is 0 to `patch_mask`.

    Attributes:
        size: pixels of a side of the output.
        patch_size: pixels of a side of a patch.
        num_masked: patches hidden; X-FM has 75 of 196.
        mask_patches: "blocks" (BEiT) or "random".
        augment: "default" does what the next three say; "none" only resizes (evaluation).
        crop_scale: area of the random crop as fractions of the image; (1, 1) resizes the whole
            image.
        flip: "random" (p = 0.5), "careful" (not if a text says left or right), or "none".
        randaugment: "A" (colour and geometry), "B" (colour), or "none".
        decode: "part": of a JPEG no rows below the crop, which saves a tenth of the decoding;
            "whole": all, which also finds damage there, and any that shifts what follows it.
        max_pixels: an image with as many pixels or more is skipped from its header. Decoding takes
            at most 20 bytes per pixel in each of the stream's threads (JPEG 9, PNG 8).
    """

    size: int = 224
    patch_size: int = 16
    num_masked: int = 75
    mask_patches: str = "blocks"
    augment: str = "default"
    crop_scale: tuple[float, float] = (0.2, 1.0)
    flip: str = "random"
    randaugment: str = "A"
    decode: str = "part"
    max_pixels: int = images.MAX_PIXELS

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.size, self.patch_size) < 1 or self.size % self.patch_size:
            raise ValueError(f"size {self.size} is not a multiple of patch_size {self.patch_size}")
        if not 0 <= self.num_masked <= self.grid**2:
            raise ValueError(f"num_masked {self.num_masked}; an image has {self.grid**2} patches")
        if not 1 <= self.max_pixels <= images.MOST_PIXELS:
            raise ValueError(
                f"max_pixels is {self.max_pixels}; possible: 1 to {images.MOST_PIXELS:,}"
            )
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale is {self.crop_scale}; 0 < low <= high <= 1 is needed")
        choices.check("augment", self.augment, ("default", "none"))
        choices.check("flip", self.flip, ("random", "careful", "none"))
        choices.check("randaugment", self.randaugment, ("A", "B", "none"))
        choices.check("mask_patches", self.mask_patches, masking.PATCH_MASKS)
        choices.check("decode", self.decode, ("part", "whole"))

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.size // self.patch_size

    def image_arrays(
        self, example: dict[str, Any], rng: np.random.Generator, texts: list[str] | None = None
    ) -> Arrays:
        """`image u8[size size 3]` and `patch_mask bool[N]` of one example.

        Raises:
            Skip: no image, or one that cannot be decoded.
        """
        picture = self.open_picture(example)
        box = (0, 0, picture.height, picture.width)
        if self.augment != "none" and tuple(self.crop_scale) != (1, 1):
            low, high = self.crop_scale
            box = images.random_crop_box(picture.height, picture.width, rng, scale=(low, high))
        image = self.cut(picture, box)
        if self.draw_flip(rng, texts or []):
            image = images.flip(image)
        return {"image": self.coloured(image, rng), **self.patch_arrays(rng)}

    def open_picture(self, example: dict[str, Any]) -> images.Picture:
        """Reads the header of the example's image, unless it is a `Picture` already.

        Raises:
            Skip: there is none, or it is unusable.
        """
        if example.get("image") is None:
            raise Skip("no image", f"the record has {', '.join(sorted(map(str, example)))}")
        if isinstance(example["image"], images.Picture):
            return example["image"]
        return images.Picture(example["image"], max_pixels=self.max_pixels)

    def patch_arrays(self, rng: np.random.Generator) -> Arrays:
        """`patch_mask bool[N]`, or nothing if no patch is hidden."""
        if not self.num_masked:
            return {}
        return {
            "patch_mask": masking.PATCH_MASKS[self.mask_patches](self.grid, self.num_masked, rng)
        }

    def cut(self, picture: images.Picture, box: tuple[int, int, int, int]) -> np.ndarray:
        """The part (top, left, height, width) of a picture, resized to u8[size size 3]."""
        return picture.cut(box, self.size, self.size, whole=self.decode == "whole")

    def draw_flip(self, rng: np.random.Generator, texts: list[str]) -> bool:
        """Whether this image is mirrored."""
        if self.augment == "none" or self.flip == "none":
            return False
        mirrored = rng.random() < 0.5
        if not mirrored or self.flip != "careful":
            return mirrored
        said = " ".join(texts).lower()
        return "left" not in said and "right" not in said

    def coloured(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """RandAugment, if it is on."""
        return image if self.augment == "none" else randaugment(image, rng, self.randaugment)


def example_id(example: dict[str, Any]) -> np.int32:
    """The example's id as i32, the same for the same id everywhere; strings are hashed."""
    value = example.get("id", 0)
    if isinstance(value, int | np.integer) and 0 <= value < 2**31:
        return np.int32(value)
    return np.int32(zlib.crc32(str(value).encode("utf-8", "replace")) & 0x7FFFFFFF)


def label(example: dict[str, Any]) -> np.int32:
    """The example's class number.

    Raises:
        Skip: there is none, or it is not a whole number >= 0.
    """
    value = example.get("label")
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        is_name = isinstance(value, str)
        advice = "; names of a table's classes are numbered by ?classes=FILE" if is_name else ""
        raise Skip("no usable label", repr(value)[:80] + advice)
    return np.int32(value)
