"""Folders of weights in which something is wrong, made from a seed: what loading must refuse.

Wrong JSON in `config.json`, an index that leads elsewhere, arrays of other names, shapes and types.
"""

import functools
import json
import pathlib
import random
import shutil

import numpy as np

from tests.convert import test_families
from tests.convert.test_parity import import_golden, read
from unified_fm.convert.readers.safetensors_file import write_safetensors

MODELS = ("bert_small", "roberta_small", "vit_small", "beit_shared", "clip_small")
_VALUES = [None, True, False, -1, 0, 1, 2, 3, 7, 10**9, 2**31, 10**30, 0.5, 1e308, float("inf")]
_VALUES += [float("nan"), "", "2", "gelu", "\ud800", "a\0b", "x" * 5000, [], [2], [2, 2], [2, 3]]
_VALUES += [[[2, 2], [2, 2]], {}, {"0": "a"}, {"0": 1}, {"a": {"b": []}}]
_FILES = [
    "..",
    ".",
    "",
    "self",
    "self/a.safetensors",
    "../a.safetensors",
    "/etc/passwd",
    "a\0b.bin",
]
_FILES += ["\ud800.bin", "x" * 300 + ".bin", "none.bin", "config.json", "b.safetensors", "a.npz"]
_FILES += [
    "model.safetensors.index.json",
    "folder.safetensors",
    "a.safetensors/",
    "C:a.bin",
    3,
    None,
]


@functools.cache
def good(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """`config.json` and the arrays of a small model."""
    config, params, _, _ = read(name)
    return config, params


@functools.cache
def google() -> dict[str, np.ndarray]:
    """A ViT in big_vision's names, all layers stacked."""
    config, params = good("vit_small")
    new = test_families.google(import_golden("vit", params, config), new=True)
    file = {name: value for name, value in new.items() if "encoderblock" not in name}
    for name, value in new.items():
        if "encoderblock_0" in name:
            layers = [value, new[name.replace("block_0", "block_1")]]
            file[name.replace("encoderblock_0", "encoderblock")] = np.stack(layers)
    return file


def make(seed: int, folder: pathlib.Path) -> tuple[str, pathlib.Path, str]:
    """Writes a folder anew: returns its family, what to load, and what is wrong with it."""
    rng = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    kind = ("config", "index", "arrays", "google")[seed % 4]
    if kind == "google":
        np.savez(folder / "a.npz", **_damaged(rng, google()))
        return "augreg", folder / "a.npz", kind
    name = rng.choice(MODELS)
    config, params = good(name)
    if kind == "config":
        config = _wrong(rng, config)
    if kind == "arrays":
        params = _damaged(rng, params)
    if kind == "index":
        _write_index(rng, folder, params)
    else:
        write_safetensors(folder / "model.safetensors", params)
    (folder / "config.json").write_text(json.dumps(config))
    return name.split("_")[0], folder, kind


def _wrong(rng, config):
    """A copy with one to three values replaced or left out."""
    config = json.loads(json.dumps(config))
    for _ in range(rng.choice([1, 1, 2, 3])):
        inner = rng.choice([config, *(v for v in config.values() if isinstance(v, dict) and v)])
        key = rng.choice(list(inner))
        if rng.random() < 0.2:
            del inner[key]
        else:
            inner[key] = rng.choice(_VALUES)
    return config


def _write_index(rng, folder, params):
    """Two files and an index, in which a name, a file or the whole map is wrong."""
    names = sorted(params)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, some in parts.items():
        write_safetensors(folder / file, {name: params[name] for name in some})
    (folder / "self").symlink_to(folder)
    (folder / "folder.safetensors").mkdir()
    places = {name: file for file, some in parts.items() for name in some}
    for _ in range(rng.choice([1, 1, 2])):
        change = rng.randrange(5)
        name = rng.choice(names)
        if change < 3:
            places[name] = rng.choice(_FILES)
        elif change == 3:
            places[rng.choice(["new", "", "\ud800", "a\0b"])] = rng.choice(list(parts))
        else:
            places.pop(name, None)
    index = {"metadata": rng.choice(_VALUES), "weight_map": places}
    if rng.random() < 0.2:
        index = rng.choice([{**index, "weight_map": rng.choice(_VALUES)}, rng.choice(_VALUES)])
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _damaged(rng, params):
    """A copy with one to three arrays lost, doubled, renamed, or of another shape or type."""
    params = dict(params)
    for _ in range(rng.choice([1, 1, 2, 3])):
        name = rng.choice(sorted(params))
        array = params.pop(name)
        change = rng.randrange(6)
        if change == 1:
            params[name] = rng.choice(_shapes(array))
        elif change == 2:
            dtype = rng.choice(["int8", "int64", "bool", "float16", "float64", "uint32"])
            params[name] = np.nan_to_num(array, posinf=9, neginf=9).clip(-9, 9).astype(dtype)
        elif change == 3:
            params[_renamed(rng, name)] = array
        elif change == 4:
            params |= {name: array, _renamed(rng, name): array}
        elif change == 5:
            params[name] = np.full(array.shape, rng.choice([np.nan, np.inf, 1e38]), np.float32)
    return params


def _shapes(array):
    """The array in other shapes; those that are larger are of zeros."""
    wrong = [array.reshape(-1), array.T, array[None], array[..., None], array[:0], array[..., :-1]]
    wrong += [array[:1], np.concatenate([array, array]), np.float32(1).reshape(())]
    return [*wrong, np.zeros((1,) * 16, np.float32), np.zeros((0, 2**40), np.float32)]


def _renamed(rng, name):
    """Another number, another spelling, or nothing that any table knows."""
    at = rng.randrange(len(name) + 1)
    names = [name.replace("0", "9999"), name.replace("0", "00"), name.replace("1", "12345678")]
    names += [name.replace("weight", "gamma"), name[:at] + "." + name[at:], name[:at], name * 20]
    names += [name.replace(".", "/"), "encoder.layer.5000.output.dense.weight", "x"]
    return rng.choice(names) or "x"
