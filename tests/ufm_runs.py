"""Tiny runs of UFM on made-up streams, for tests of the loop with teachers and masked gradients."""

import shutil

import jax
import numpy as np

from unified_fm import rules, sharding, train
from unified_fm.checkpoint import store as checkpoint
from unified_fm.config import file as config_file
from unified_fm.data.streams import stream
from unified_fm.runtime.interruption import Interruption

LAYERS = {"layers": 1, "width": 16, "heads": 2, "mlp_width": 32}
MODELS = {
    "ufm": {
        "name": "ufm",
        "vocab_size": 261,
        "image_size": 16,
        "patch_size": 8,
        "classes": 3,
        "encoder": LAYERS,
        "max_positions": 16,
    },
    "bert": {"name": "bert", "vocab_size": 261, "text": LAYERS, "max_positions": 16},
    "vit": {"name": "vit", "image_size": 16, "patch_size": 8, "classes": 3, "vision": LAYERS},
}
KD = {
    "image": {"weight": 0.5, "teacher": "vit", "of": "image"},
    "text": {"weight": 0.5, "teacher": "bert", "of": "mlm", "temperature": 2.0},
}


def config(teachers=None, **changes):
    """A complete config; with teachers, both streams distil."""
    image, text = {"classify": 0.5}, {"mlm": 0.5}
    if teachers:
        image["distill"], text["distill"] = KD["image"], KD["text"]
    pixels = {"size": 16, "patch_size": 8}
    words = {"max_len": 16, "max_masked": 3}
    given = {
        "total_steps": 6,
        "model": MODELS["ufm"],
        "streams": {
            "image": stream("classify", "synthetic:image:24", 8, image, threads=1, **pixels),
            "text": stream("text", "synthetic:text:24", 8, text, threads=1, **words),
        },
        "gradient_groups": {"image": ["image"], "text": ["text"]},
        "teachers": teachers or {},
        "optimizer": {"lr": 1e-2, "project": ()},
        "log": {"every": 1, "tensorboard": False},
        "checkpoint": {"every": 100},
        "evaluate": {"at_end": False},
        "report": False,
    }
    return config_file.made(given | changes)


def run(config, workdir):
    """Trains; returns the saved parameters by path."""
    workdir.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_disable_most_optimizations", True)  # compiles in half the time
    try:
        with Interruption() as stop:
            train.train(config, workdir, stop)
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    return params(workdir)


def params(workdir):
    return {k: np.asarray(x) for k, x in rules.named_leaves(checkpoint.load_params(workdir))}


def forget_after(workdir, step):
    """Removes the checkpoints after a step, as if the run had been killed then."""
    for folder in (workdir / "checkpoints").iterdir():
        if folder.name.isdigit() and int(folder.name) > step:
            shutil.rmtree(folder)


def on_devices(monkeypatch, count):
    """Makes the mesh of runs of the first `count` devices."""
    make = sharding.make_mesh
    devices = jax.devices()[:count]
    monkeypatch.setattr(sharding, "make_mesh", lambda **sizes: make(devices=devices, **sizes))
