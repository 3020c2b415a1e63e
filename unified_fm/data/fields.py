"""Records of files as examples: under which names our fields stand, and what an image may be."""

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from typing import Any

from unified_fm import buckets
from unified_fm.data import images
from unified_fm.data.skips import Skip

# Our fields, and the names under which they stand in a file: the first that is there counts.
NAMES: Mapping[str, Sequence[str]] = {
    "id": ("id", "image_id"),
    "image": ("image", "binary"),
    "text": ("text", "desc", "caption"),
    "regions": ("regions", "elems"),
}
# What the name of an image may end in; whether its kind can be read is told by its content.
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif")


def example_of(
    record: Mapping[str, Any],
    root: Any,
    index: Any,
    names: Mapping[str, Sequence[str]] = NAMES,
) -> dict[str, Any]:
    """A record with our field names or the published ones, as an example; it keeps all others.

    Args:
        record: the object of a line, the row of a table.
        root: folder of its images, a `pathlib.Path` or an `epath.Path`.
        index: its id, where it has none.
        names: of our fields in the record, by field.

    Raises:
        Skip: an image whose path is refused, or that is none.
    """
    rest, known = dict(record), {}
    for field, possible in names.items():
        if name := next((name for name in possible if name in record), None):
            known[field] = rest.pop(name)
    key = known.pop("id", None)
    example = {**rest, "id": index if key is None else key}  # of null all would be one record
    image, text, regions = (known.pop(field, None) for field in ("image", "text", "regions"))
    example |= known  # `label` and others, where `names` has them
    if isinstance(image, list) and image:
        image = image[0]
    if image is not None:
        example["image"] = _image(image, root)
    if "images" in rest:
        if not isinstance(rest["images"], list):
            raise Skip("images of a wrong type", f"{type(rest['images']).__name__}; a list is one")
        example["images"] = [_image(each, root) for each in rest["images"]]
    if isinstance(text, dict):
        text = [text["en"]] if "en" in text else list(text.values())
    if text is not None:
        example["text"] = text
    if isinstance(regions, list):
        example["regions"] = [_region(region) for region in regions]
    return example


def _region(region: Any) -> Any:
    if not isinstance(region, dict):
        return region  # the pipeline counts it
    rest = {name: value for name, value in region.items() if name not in ("bb", "caption")}
    return rest | {
        "box": region.get("box", region.get("bb")),
        "text": region.get("text", region.get("caption")),
        "attributes": region.get("attributes"),
    }


def _image(image: Any, root: Any) -> bytes | str:
    """Bytes as they are or of a base64 string, or a path below `root`."""
    if isinstance(image, dict) and set(image) <= {"bytes", "path"}:  # as `datasets` keeps them
        image = image.get("bytes") or image.get("path")
        if image is None:
            raise Skip("no image", "neither bytes nor a path")
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str):
        raise Skip(
            "image of a wrong type", f"{type(image).__name__}; bytes, a path or base64 is needed"
        )
    images.refuse_url(image)
    if image.startswith("data:"):
        image = image.partition(",")[2]
    # Base64 has no dot; a path without one is taken as such if the file is there.
    if len(image) < 4096 and ("." in image or _exists(os.path.join(root, image))):
        path = buckets.inside(root, image)
        if path is None:
            raise Skip("image path outside the data folder", image[:200])
        return path
    try:
        return base64.b64decode("".join(image.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Skip("image is neither a file nor base64", f"{image[:40]!r}: {error}") from error


def _exists(path: str) -> bool:
    try:
        return buckets.isfile(path)
    except (OSError, ValueError):  # too long, or a NUL byte
        return False
