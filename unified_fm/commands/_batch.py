"""One batch of every stream for people: a table of its arrays, and a picture of its first rows."""

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unified_fm.convert.table import flatten
from unified_fm.data.tokenizer import Tokenizer
from unified_fm.report import charts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CELL, _LINES = 1.9, 1.0  # inches of an image, and of the words below it
_WIDTH = 26  # letters of a line
_HIDDEN = np.array([230, 120, 50], np.uint8)  # over patches that the model does not see


def table(batches: Mapping[str, Mapping[str, Any]]) -> str:
    """Streams, their arrays, shapes and ranges, one line each."""
    lines = []
    for stream, batch in batches.items():
        lines.append(stream)
        for name, array in flatten(batch).items():
            array = np.asarray(array)
            kind = array.dtype.str.lstrip("<|>=")
            shape = f"{array.dtype.name}[{' '.join(map(str, array.shape))}]"
            span = f"{array.min():g} .. {array.max():g}" if array.size and kind[0] in "iuf" else ""
            lines.append(f"    {name:<18}  {shape:<24}  {span}".rstrip())
    return "\n".join(lines)


def save_picture(
    batches: Mapping[str, Mapping[str, Any]], tokenizer: Tokenizer, out: Path, rows: int = 6
) -> None:
    """Draws the first rows of every stream, to a .png or .svg: image, hidden patches, box, text."""
    from matplotlib.figure import Figure

    heights = [_LINES + _CELL * ("image" in b or "images" in b) for b in batches.values()]
    figure = Figure(figsize=(_CELL * rows, sum(heights)), layout="constrained")
    axes = figure.subplots(len(batches), rows, squeeze=False, height_ratios=heights)
    for line, (stream, batch) in zip(axes, batches.items(), strict=True):
        for row, axis in enumerate(line):
            axis.axis("off")
            if row < len(next(iter(batch.values()))):
                _draw(axis, batch, row, tokenizer)
        line[0].set_title(stream, loc="left", fontweight="bold", fontsize=9)
    charts.save(figure, out)


def counted(batch: Mapping[str, Any], groups: int) -> Mapping[str, Any]:
    """The batch with an `image_index` that counts all of its images, not those of a group."""
    if "image_index" not in batch:
        return batch
    index = np.asarray(batch["image_index"])
    group = np.arange(len(index)) // (len(index) // groups)
    return {**batch, "image_index": index + group * (len(batch["image"]) // groups)}


def _draw(axis: "Axes", batch: Mapping[str, Any], row: int, tokenizer: Tokenizer) -> None:
    words = "\n".join(_words(batch, row, tokenizer))
    image = _image(batch, row)
    if image is None:
        axis.text(0, 1, words, va="top", fontsize=6, transform=axis.transAxes)
        return
    height, width = image.shape[:2]
    axis.imshow(image, interpolation="nearest")
    axis.text(0, -0.04, words, va="top", fontsize=6, transform=axis.transAxes)
    if "box" in batch:
        x, y, w, h = np.asarray(batch["box"][row]) * [width, height, width, height]
        corner = ((x - w / 2) - 0.5, (y - h / 2) - 0.5)
        axis.add_patch(_frame(corner, w, h))


def _frame(corner: tuple[float, float], width: float, height: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, fill=False, edgecolor="#1fa04c", linewidth=1.5)


def _image(batch: Mapping[str, Any], row: int) -> np.ndarray | None:
    """The picture of a row, u8[H W 3], with the patches that are hidden from the model tinted."""
    if "images" in batch:  # u8[B K H W 3], side by side
        return np.concatenate(list(batch["images"][row]), axis=1)
    if "image" not in batch:
        return None
    which = int(batch["image_index"][row]) if "image_index" in batch else row
    image = np.array(batch["image"][which])
    if "patch_mask" in batch:
        hidden = np.asarray(batch["patch_mask"][which])
        side = round(hidden.size**0.5)
        size = image.shape[0] // side
        tinted = np.kron(hidden.reshape(side, side), np.ones((size, size), bool))
        image[tinted] = image[tinted] // 3 + _HIDDEN // 3 * 2
    return image


def _words(batch: Mapping[str, Any], row: int, tokenizer: Tokenizer) -> Iterator[str]:
    """The lines below a picture."""
    if "label" in batch:
        yield f"label {batch['label'][row]}"
    for name in ("text", "text_masked"):
        if name in batch:
            ids = np.asarray(batch[name][row])[np.asarray(batch["text_mask"][row], bool)]
            said = tokenizer.decode(ids) if name == "text" else " ".join(map(tokenizer.token, ids))
            # "$" would begin a formula.
            yield from textwrap.wrap(said.replace("$", r"\$"), _WIDTH, max_lines=5)
