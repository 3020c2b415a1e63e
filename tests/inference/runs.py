"""Workdirs of tiny runs as training leaves them, with random numbers for what it would learn."""

import base64
import io
import json

import jax
import numpy as np
from PIL import Image

from unified_fm import setup
from unified_fm.checkpoint import assets, store
from unified_fm.config import file as config_file
from unified_fm.data import tokenizer_training
from unified_fm.data.streams import stream

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "grey": (90,) * 3}
WORDS = (*COLOURS, "square", "left", "right")
SIZE = 16
LAYER = {"layers": 1, "width": 16, "heads": 2, "mlp_width": 32}
XFM = {
    "name": "xfm",
    "vocab_size": 80,
    "image_size": SIZE,
    "patch_size": 8,
    "projection_dim": 8,
    "max_positions": 40,
    "pad_id": 0,
    "position_offset": "bert",
    **dict.fromkeys(("text", "vision", "fusion"), LAYER),
}
PIXELS = {"size": SIZE, "patch_size": 8, "threads": 1}


def picture(name: str, height: int = 20, width: int = 30) -> np.ndarray:
    """u8[H W 3]: a square of a colour on white, left of the middle."""
    image = np.full((height, width, 3), 255, np.uint8)
    image[4:14, 3:13] = COLOURS[name]
    return image


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def records() -> list[dict]:
    """What the runs learn from; 8 of them."""
    return [
        {
            "id": number,
            "image": base64.b64encode(png(picture(name))).decode(),
            "images": [base64.b64encode(png(picture(name))).decode()] * 2,
            "text": f"a {name} square",
            "objects": [name],
            "regions": [{"box": [3, 4, 10, 10], "text": f"a {name} square"}],
            "label": number % 2,
            "question": f"is it {name}",
            "answers": ["yes"] * 10,
        }
        for number, name in enumerate([*COLOURS] * 2)
    ]


def pretraining(folder) -> dict:
    """The config of an X-FM with every objective of the quick start."""
    source = f"jsonl:{folder / 'records.jsonl'}"
    words = {"max_len": 12, "max_masked": 3}
    aligned = {"itc": 1.0, "itm": 1.0, "imlm": 1.0}
    return {
        "streams": {
            "text": stream("text", source, 4, {"mlm": 1.0}, threads=1, max_len=20, max_masked=3),
            "pairs": stream("image_text", source, 4, aligned, num_masked=0, **PIXELS, **words),
            "regions": stream("regions", source, 4, {"bbox": 1.0}, images=2, **PIXELS, **words),
        }
    }


def make(folder, given=pretraining, model=XFM, seed: int = 0):
    """Writes FOLDER/data and FOLDER/run; returns the latter.

    `given(data folder)` are the settings that differ from the defaults.
    """
    data, workdir = folder / "data", folder / "run"
    data.mkdir(parents=True)
    workdir.mkdir()
    tokenizer = tokenizer_training.train_wordpiece(["a square is it yes no"] * 3, 80, list(WORDS))
    tokenizer.save(data / "tokenizer")
    lines = "".join(json.dumps(record) + "\n" for record in records())
    (data / "records.jsonl").write_text(lines)
    settings = config_file.made(
        {"model": model, "tokenizer": str(data / "tokenizer"), "report": False, **given(data)}
    )
    ready = setup.prepare(settings)
    opened = ready.open_streams()
    (workdir / "config.json").write_text(json.dumps(settings.plain()))
    assets.keep(workdir, ready.tokenizer, opened.loaders)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 3, ready.params
    )
    if "temperature" in params:
        params["temperature"] = np.float32(0.1)
    store.save_params(workdir / "checkpoints", params)
    opened.close()
    return workdir
