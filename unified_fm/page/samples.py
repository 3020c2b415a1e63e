"""Scenes of the demo corpus as examples of the page, where the corpus has been prepared."""

from pathlib import Path

from PIL import Image

from unified_fm.data.sources import demo


def scenes(folder: Path, count: int = 6) -> list[tuple[str, str]]:
    """(path, caption) of held-out scenes; none where there is no corpus.

    Args:
        folder: to write PNG files into.
        count: of scenes.
    """
    try:
        source = demo.Source("scenes/val")
    except FileNotFoundError:
        return []
    found = []
    for number in range(min(count, len(source))):
        scene = source[number]
        path = folder / f"scene-{number}.png"
        Image.fromarray(scene["image"]).save(path)
        found.append((str(path), scene["text"]))
    return found
