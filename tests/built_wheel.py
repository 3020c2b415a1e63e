"""The wheel as CI builds it, for the tests that install it. No index is asked."""

import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = [
    "unified_fm",
    "configs",
    "setup.py",
    "setup.cfg",
    "pyproject.toml",
    "README.md",
    "LICENSE",
]


def pip(*arguments, **options) -> str:
    """What pip says."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, capture_output=True, text=True, **options).stdout


def build(folder: pathlib.Path) -> pathlib.Path:
    """Built from a copy: setuptools leaves folders behind, which would get into the next wheel."""
    for name in SOURCES:
        place = ROOT / name
        (shutil.copytree if place.is_dir() else shutil.copy)(place, folder / name)
    dist = folder / "dist"
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", dist, folder)
    [found] = dist.glob("*.whl")
    return found
